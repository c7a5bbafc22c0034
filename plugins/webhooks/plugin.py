"""The webhooks as a plugin."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from broker.amqtt import Services, TidelineContext, Undecided
from broker.hooks import Group, GroupPlugin
from plugins.http import add_router
from plugins.webhooks.client_events import ClientEvents
from plugins.webhooks.config import CONNECTED, DISCONNECTED, Hook
from plugins.webhooks.events import CLIENTS
from plugins.webhooks.hook import HookRunner
from plugins.webhooks.routes import make_router
from storage.ending import end
from storage.errors import StorageError

log = logging.getLogger("tideline.webhooks")

_LEASE = "webhooks"
_NOTE = "webhooks"
_TRIM = 30.0
"""Seconds between two removals of who came and went, of what every hook is done with."""


class WebhooksPlugin(GroupPlugin):
    """Tells HTTP services what happened."""

    @dataclass
    class Config:
        """Settings under ``plugins: webhooks:``."""

        hooks: list[Hook] = field(default_factory=list)
        """Who is told what, each with a ``name`` and a ``url``."""

        def __post_init__(self) -> None:
            names = [hook.name for hook in self.hooks]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"hooks: {', '.join(sorted(twice))}: a name may be given once")
            for hook in self.hooks:
                if hook.cafile and not os.path.isfile(hook.cafile):
                    raise ValueError(
                        f"hooks: {hook.name}: cafile {hook.cafile!r}: there is no such file that this user can read"
                    )

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._runners: list[HookRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: ClientEvents | None = None
        add_router(context, make_router(self))
        if any(hook.of_clients for hook in self.config.hooks):
            self.on_broker_client_connected = partial(self._client, CONNECTED)
            self.on_broker_client_disconnected = partial(self._client, DISCONNECTED)

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        server = cast(Services, self.context.server)
        if not server.listening or not self.config.hooks:
            return
        server.answer_nodes(_NOTE, self._answer)
        may = partial(server.may, _LEASE)
        self._runners = [HookRunner(server, hook, may) for hook in self.config.hooks]
        self._tasks = [asyncio.create_task(runner.run(), name=f"webhook {runner.hook.name}") for runner in self._runners]
        for task in self._tasks:
            task.add_done_callback(_ended)
        if any(hook.of_clients for hook in self.config.hooks):
            self._clients = ClientEvents(server)
            self._tasks.append(asyncio.create_task(self._trim(), name="trimming of client events"))

    async def before_ack(self, group: Group) -> None:
        """Keep who comes and goes; a policy would keep nothing below ``$``."""
        if self._clients is not None:
            for append in group.appends:
                if append.message.topic == CLIENTS:
                    append.store = True

    async def after_ack(self, group: Group) -> None:
        """Wake the hooks; they read storage themselves, so that a group that is missed here misses nothing."""
        if group.appends:
            for runner in self._runners:
                runner.news.set()

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """End requests under way, and make durable where each hook is. May be called twice."""
        clients, self._clients = self._clients, None
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        runners, self._runners = self._runners, []
        if not runners:
            return
        settings = cast(Services, self.context.server).settings
        patience = min(settings.hooks.timeout, settings.mqtt.shutdown_grace) * 0.4
        with suppress(TimeoutError, StorageError, Undecided):  # what is not saved is told again
            async with asyncio.timeout(patience):
                await asyncio.gather(*(runner.place.save() for runner in runners))
        if clients is not None:
            await clients.close(patience)

    # --- clients -------------------------------------------------------------------------------------------------------

    async def _client(self, kind: str, client_id: str, client_session: Any) -> None:
        if self._clients is not None:
            user = str(getattr(client_session, "user_key", "") or f"c/{client_id}")
            self._clients.add(kind, user, client_id, str(client_session.remote_address or ""))

    async def _trim(self) -> None:
        storage = cast(Services, self.context.server).storage
        while True:
            await asyncio.sleep(_TRIM)
            done = [runner.client_seq for runner in self._runners if runner.hook.of_clients and runner.running]
            if done and min(done) > 1:
                try:
                    await storage.prune_conversation(CLIENTS, min(done))
                except StorageError as error:
                    log.debug("old events of clients stay: %s", error)

    # --- what the operator asks ----------------------------------------------------------------------------------------

    async def anywhere(self) -> list[dict[str, Any]] | None:
        """The state of the hooks on the node that runs them; None where none does now."""
        found = self._answer({}) if self.config.hooks else {"hooks": []}
        if found is None:
            found = await cast(Services, self.context.server).ask_nodes(_NOTE, {})
        return None if found is None else list(found["hooks"])

    def _answer(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not any(runner.running for runner in self._runners):
            return None
        return {"hooks": [runner.state() for runner in self._runners]}


def _ended(task: asyncio.Task[None]) -> None:
    """A hook never ends by itself: this is our bug, and must not be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s has ended: internal error", task.get_name(), exc_info=error)
