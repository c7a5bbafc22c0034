"""The bridges as a plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from broker.amqtt import Services, TidelineContext
from broker.hooks import Group, GroupPlugin
from plugins.bridge.bridge import BridgeRunner
from plugins.bridge.config import Bridge
from plugins.bridge.routes import make_router
from plugins.http import add_router
from storage.ending import end

log = logging.getLogger("tideline.bridge")

_LEASE = "bridges"
_NOTE = "bridges"


class BridgePlugin(GroupPlugin):
    """Sends what is stored to other brokers, and stores what is published there."""

    @dataclass
    class Config:
        """Settings under ``plugins: bridge:``."""

        bridges: list[Bridge] = field(default_factory=list)
        """The other brokers, each with a ``name`` and an ``address``."""

        def __post_init__(self) -> None:
            names = [bridge.name for bridge in self.bridges]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"bridges: {', '.join(sorted(twice))}: a name may be given once")

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._runners: list[BridgeRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        add_router(context, make_router(self))

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        server = cast(Services, self.context.server)
        if not server.listening or not self.config.bridges:
            return
        server.answer_nodes(_NOTE, self._answer)
        may = partial(server.may, _LEASE)
        self._runners = [BridgeRunner(server, bridge, may) for bridge in self.config.bridges]
        self._tasks = [asyncio.create_task(runner.run(), name=f"bridge {runner.bridge.name}") for runner in self._runners]
        for task in self._tasks:
            task.add_done_callback(_ended)

    async def after_ack(self, group: Group) -> None:
        """Wake the bridges; they read storage themselves, so that a group that is missed here misses nothing."""
        if group.appends:
            for runner in self._runners:
                runner.news.set()

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect, and make durable where each bridge is. May be called twice."""
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        self._runners = []

    async def anywhere(self) -> list[dict[str, Any]] | None:
        """The state of the bridges on the node that runs them; None where none does now."""
        found = self._answer({}) if self.config.bridges else {"bridges": []}
        if found is None:
            found = await cast(Services, self.context.server).ask_nodes(_NOTE, {})
        return None if found is None else list(found["bridges"])

    def _answer(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not any(runner.running for runner in self._runners):
            return None
        return {"bridges": [runner.state() for runner in self._runners]}


def _ended(task: asyncio.Task[None]) -> None:
    """A bridge never ends by itself: this is our bug, and must not be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s has ended: internal error", task.get_name(), exc_info=error)
