"""The webhooks as a plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.access import SessionInfo
from broker.hooks import Group, SessionPlugin
from plugins.following import FollowingPlugin, May, check_names, ended
from plugins.following_routes import states_router
from plugins.http import add_router
from plugins.metrics import WEBHOOKS
from plugins.quiet import quiet_of
from plugins.webhooks.client_events import ClientEvents
from plugins.webhooks.config import Hook
from plugins.webhooks.hook import HookRunner
from plugins.webhooks.states import HookList


class WebhooksPlugin(FollowingPlugin[HookRunner], SessionPlugin):
    """Tells HTTP services what happened."""

    @dataclass
    class Config:
        """Settings under ``plugins: webhooks:``."""

        hooks: list[Hook] = field(default_factory=list)
        """Who is told what, each with a ``name`` and a ``url``."""

        def __post_init__(self) -> None:
            check_names("hooks", self.hooks)

    config: Config
    kind = "webhook"
    counted = WEBHOOKS

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._quiet = quiet_of(context)
        wanted = any(hook.of_clients for hook in self.config.hooks)
        self._clients = ClientEvents(self._services) if wanted else None
        add_router(context, states_router(self, HookList))

    @property
    def sections(self) -> Sequence[Hook]:
        return self.config.hooks

    def runner(self, section: Hook, may: May) -> HookRunner:
        return HookRunner(self._services, section, may, self._quiet)

    async def on_broker_post_start(self) -> None:
        await super().on_broker_post_start()
        if self._runners and self._clients is not None:
            self._tasks.append(asyncio.create_task(self._clients.run(self._done), name="client events"))
            self._tasks[-1].add_done_callback(ended)

    def _done(self) -> int | None:
        """Up to which of the clients' events every hook is done with them; None where another node runs the hooks."""
        runners = [runner for runner in self._runners if runner.hook.of_clients]
        return min(runner.client_seq for runner in runners) if all(runner.place.running for runner in runners) else None

    def opening(self, connection: object, info: SessionInfo) -> None:
        """A client comes."""
        if self._clients is not None:
            self._clients.came(connection, info)

    def ended(self, connection: object, info: SessionInfo) -> None:
        """It is gone."""
        if self._clients is not None:
            self._clients.went(connection, info)

    def before_ack(self, group: Group) -> None:
        """Keep who comes and goes."""
        if self._clients is not None:
            self._clients.keep(group)
