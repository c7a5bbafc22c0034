"""Presence and typing as a plugin."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from broker.access import SessionInfo
from broker.amqtt import Services, TidelineContext, Undecided
from broker.config import parse_duration
from broker.connection import passing
from broker.hooks import Group, GroupPlugin, SessionPlugin
from plugins.http import add_router
from plugins.presence.cleaning import Cleaning
from plugins.presence.devices import Devices
from plugins.presence.erasing import Erasing
from plugins.presence.presence import Presence
from plugins.presence.routes import Reader, kinds, make_router
from plugins.presence.typing import TYPING, Typing, access
from plugins.recall.records import add_eraser
from plugins.sync_requests import add_requests
from storage.ending import end
from storage.errors import StorageError
from storage.records import DeviceKey

log = logging.getLogger("tideline.presence")

_PATIENCE = 2.0
"""Seconds that the last note of a run may take when it ends."""


class PresencePlugin(GroupPlugin, SessionPlugin):
    """Tells who is online, and who types."""

    @dataclass
    class Config:
        """Settings under ``plugins: presence:``."""

        grace: str | int | float = "5s"
        """For how long a device that has gone counts as online: one that is back by then never was away."""
        forget_after: str | int | float = "90d"
        """Devices that were last seen longer ago are no longer known; 0: they always are."""
        anonymous: bool = True
        """Whether clients that no plugin verified are told, too."""
        typing_rate: float = 2.0
        """Messages a second to `$typing/<topic>` of one user for one topic."""
        typing_size: int = 1024
        """Bytes of payload of one of them."""

        def __post_init__(self) -> None:
            self.grace_seconds = _seconds("grace", self.grace)
            self.forget_seconds = _seconds("forget_after", self.forget_after)
            if not 0.01 <= self.typing_rate <= 1000:
                raise ValueError(f"typing_rate {self.typing_rate:g}: must be 0.01 to 1000 a second")
            if not 0 <= self.typing_size <= 65536:
                raise ValueError(f"typing_size {self.typing_size}: must be 0 to 65536 bytes")

    config: Config
    context: TidelineContext
    stand_ins: ClassVar = {TYPING: access}
    """Who may publish to a topic may tell that it types there."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._devices = Devices(self.config.grace_seconds)
        self._typing = Typing(self.config.typing_rate, self.config.typing_size)
        self._presence: Presence | None = None
        self._cleaning: Cleaning | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.reader = Reader(cast(Services, self.context.server))
        add_router(context, make_router(self.reader))
        add_requests(context, kinds(self.reader))
        add_eraser(context, "presence", Erasing(cast(Services, self.context.server)))

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        server = cast(Services, self.context.server)
        if not server.listening:
            return
        shared = server.storage.cluster
        run = secrets.token_hex(8) if shared is None else str(shared.me.token)
        self._presence = Presence(server, self._devices, run)
        self._cleaning = Cleaning(server, self._presence, run, self.config.grace_seconds, self.config.forget_seconds)
        for name, work in (("presence", self._presence.run()), ("cleaning of presence", self._cleaning.run())):
            self._tasks.append(asyncio.create_task(work, name=name))
            self._tasks[-1].add_done_callback(_ended)

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Note until when this run went on: who was connected is set right by another, or the next. May be called twice."""
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        cleaning, self._cleaning = self._cleaning, None
        if cleaning is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await cleaning.beat()
            except (TimeoutError, StorageError, Undecided):
                log.debug("when this run ended is not stored")

    def before_ack(self, group: Group) -> None:
        """Keep nothing of who types."""
        self._typing.before_ack(group)

    # --- who comes and goes ------------------------------------------------------------------------------------------

    def opening(self, connection: object, info: SessionInfo) -> None:
        """A device comes."""
        device = self._device(info)
        if device is not None:
            self._devices.came(device, cast(Services, self.context.server).wall(), passing=passing(connection))
            self._wake()

    def ended(self, connection: object, info: SessionInfo) -> None:
        """A device went."""
        device = self._device(info)
        if device is not None:
            at = asyncio.get_running_loop().time()
            self._devices.went(device, cast(Services, self.context.server).wall(), at)
            self._wake()

    def _device(self, info: SessionInfo) -> DeviceKey | None:
        user = info.identity.user_key
        return DeviceKey(user, info.client_id) if self.config.anonymous or user.startswith("u/") else None

    def _wake(self) -> None:
        if self._presence is not None:
            self._presence.news.set()


def _seconds(name: str, value: object) -> float:
    try:
        found = parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{name} {value!r}: must be {error}") from None
    if not isinstance(found, int | float) or isinstance(found, bool) or found < 0:
        raise ValueError(f'{name} {value!r}: must be a duration, such as "5s" or 0')
    return float(found)


def _ended(task: asyncio.Task[None]) -> None:
    """It never ends by itself: this is our bug, and must not be silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s has ended: internal error", task.get_name(), exc_info=error)
