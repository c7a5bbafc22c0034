"""The webhooks as a plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from broker.hooks import Group
from plugins.following import FollowingPlugin, May, check_names
from plugins.http import add_router
from plugins.metrics import WEBHOOKS
from plugins.webhooks.client_events import ClientEvents
from plugins.webhooks.config import CONNECTED, DISCONNECTED, Hook
from plugins.webhooks.events import CLIENTS
from plugins.webhooks.hook import HookRunner
from plugins.webhooks.routes import make_router
from storage.errors import StorageError

log = logging.getLogger("tideline.webhooks")

_TRIM = 30.0
"""Seconds between two removals of who came and went, of what every hook is done with."""


class WebhooksPlugin(FollowingPlugin[HookRunner]):
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
        self._clients: ClientEvents | None = None
        add_router(context, make_router(self))
        if any(hook.of_clients for hook in self.config.hooks):
            self.on_broker_client_connected = partial(self._client, CONNECTED)
            self.on_broker_client_disconnected = partial(self._client, DISCONNECTED)

    @property
    def sections(self) -> Sequence[Hook]:
        return self.config.hooks

    def runner(self, section: Hook, may: May) -> HookRunner:
        return HookRunner(self._services, section, may)

    async def on_broker_post_start(self) -> None:
        await super().on_broker_post_start()
        if self._runners and any(hook.of_clients for hook in self.config.hooks):
            self._clients = ClientEvents(self._services)
            self._tasks.append(asyncio.create_task(self._trim(), name="trimming of client events"))

    async def before_ack(self, group: Group) -> None:
        """Keep who comes and goes; a policy would keep nothing below ``$``."""
        if self._clients is not None:
            for append in group.appends:
                if append.message.topic == CLIENTS:
                    append.store = True

    async def close(self) -> None:
        """End requests under way, and store who came and went. May be called twice."""
        clients, self._clients = self._clients, None
        await super().close()
        if clients is not None:
            settings = self._services.settings
            await clients.close(min(settings.hooks.timeout, settings.mqtt.shutdown_grace) * 0.4)

    # --- clients -------------------------------------------------------------------------------------------------------

    async def _client(self, kind: str, client_id: str, client_session: Any) -> None:
        if self._clients is not None:
            user = str(getattr(client_session, "user_key", "") or f"c/{client_id}")
            self._clients.add(kind, user, client_id, str(client_session.remote_address or ""))

    async def _trim(self) -> None:
        storage = self._services.storage
        while True:
            await asyncio.sleep(_TRIM)
            done = [runner.client_seq for runner in self._runners if runner.hook.of_clients and runner.place.running]
            if done and min(done) > 1:
                try:
                    await storage.prune_conversation(CLIENTS, min(done))
                except StorageError as error:
                    log.debug("old events of clients stay: %s", error)
