"""The receipts as a plugin: who is told what, and since when devices stand where they stand."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from broker.access import HISTORY
from broker.amqtt import Services, TidelineContext, Undecided
from broker.hooks import Group, GroupPlugin, Refusal, Request
from broker.packets import ReasonCode
from broker.sessions import is_channel, is_group
from plugins.http import add_router
from plugins.recall.erasure import USER
from plugins.recall.records import add_eraser
from plugins.receipts.look import look
from plugins.receipts.recorder import Recorder
from plugins.receipts.routes import make_router
from plugins.receipts.service import DEVICES, MOST_COUNTED, MOST_DEVICES, MOST_SHOWN, LedgerService
from plugins.receipts.tracker import Event, Tracker
from plugins.receipts.wanted import levels_of
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind, add_requests
from plugins.timelines import Participants, Timelines, Unprocessable, Who
from plugins.timelines.errors import Away
from storage.ending import end
from storage.errors import StorageError
from storage.records import Append

log = logging.getLogger(__name__)

RECEIPTS = "$sync/receipts/"
_LOOK = 1.0
"""Seconds between two looks at what is tracked."""
_SWEEP = 3600.0
_LEASE = "receipts"
_ERASED = "receipts erased"


class ReceiptsPlugin(GroupPlugin):
    """Tells senders how far their messages are, and whoever may ask who has one."""

    @dataclass
    class Config:
        """Settings under ``plugins: receipts:``."""

        resolution_seconds: float = 10.0
        """How exactly it is kept since when a device has what it has; a device that moves costs a write each so often."""
        keep_days: float = 30.0
        """For how long that is kept."""
        track_seconds: float = 86_400.0
        """For how long a sender is told of a message that asked for receipts."""
        storage_timeout: float = 10.0
        """Seconds that a write may wait for storage."""

        def __post_init__(self) -> None:
            for name in ("resolution_seconds", "keep_days", "track_seconds", "storage_timeout"):
                value = getattr(self, name)
                if not 0 < value < math.inf:
                    raise ValueError(f"{name} {value!r}: must be above 0")

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._participants = Participants.shared(context)
        self._tracker = Tracker()
        self._recorder: Recorder | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()
        """A message is tracked."""
        add_router(context, make_router(self.service))
        fields = ("message", "after", "limit")
        add_eraser(context, "receipts", self._erase)
        add_requests(context, {"counts": Kind(self._counts, fields), "ledger": Kind(self._ledger, (*fields, "devices"))})

    @property
    def _server(self) -> Services:
        return cast(Services, self.context.server)

    def service(self, timelines: Timelines) -> LedgerService:
        """What answers a question about a message."""
        return LedgerService(self._server, timelines)

    async def _counts(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._asked_by_device.counts(
            who, asked.text("message"), asked.text("after", ""), asked.limit(MOST_COUNTED, MOST_COUNTED)
        )

    async def _ledger(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        devices = asked.number("devices", DEVICES, MOST_DEVICES)
        return await self._asked_by_device.devices(
            who, asked.text("message"), asked.text("after", ""), asked.limit(MOST_SHOWN, 100), devices
        )

    @property
    def _asked_by_device(self) -> LedgerService:
        return self.service(Timelines(self._server, self.config.storage_timeout))

    async def on_broker_post_start(self) -> None:
        """Begin, where clients can connect."""
        server, config = self._server, self.config
        if not server.listening:
            return
        recorder = self._recorder = Recorder(server, int(config.keep_days * 86_400_000), config.storage_timeout)
        server.answer_nodes(_ERASED, lambda body: recorder.forget(body["user"]))
        server.watch_progress(recorder.progressed)
        server.watch_reads(recorder.read)
        self._tasks = [
            asyncio.create_task(self._again(config.resolution_seconds, recorder.flush), name="receipts: write times"),
            asyncio.create_task(self._again(_SWEEP, self._sweep), name="receipts: forget times"),
            asyncio.create_task(self._look(), name="receipts: look"),
        ]

    async def _erase(self, what: str, name: str, after: str) -> str | None:
        """See `plugins.recall.records.RecordEraser`. No node writes what it has noted of a user that is erased."""
        if what != USER:
            return None
        if self._recorder is None:
            raise Away("receipts are not kept yet, or no more", retry_after=5)
        await self._server.ask_nodes(_ERASED, {"user": name})
        return "" if await self._recorder.erase(name) else None

    def before_ack(self, group: Group) -> None:
        """Note who takes part in what, in the messages' own commit; refuse what asks for a receipt that there is not."""
        self._participants.note(group, self)
        for append in group.with_properties:
            if append.error is None:
                try:
                    levels_of(append.message)
                except Unprocessable as problem:
                    append.error = Refusal(problem.detail, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)

    def after_ack(self, group: Group) -> None:
        """Track the messages that ask for receipts."""
        for append in group.with_properties:
            if append.store and append.error is None and append.original is None:
                levels = levels_of(append.message)
                if levels:
                    self._tell([self._track(append, levels)])

    def _track(self, append: Append, levels: tuple[str, ...]) -> Event:
        entries = dict(zip(append.recipients, append.inbox_seqs, strict=True))
        channel = any(map(is_channel, entries))
        users = {name: seq for name, seq in entries.items() if not is_group(name)}
        until = self._server.wall() + int(self.config.track_seconds * 1000)
        event = self._tracker.add(append.message, levels, users, channel=channel, until=until)
        self._asked.set()
        return event

    def _tell(self, events: list[Event]) -> None:
        for user, event in events:
            payload = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            self._server.tell_user(user, RECEIPTS, payload)

    # --- in the background ---------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            while len(self._tracker):
                with _going_on("looking at receipts"):
                    await look(self._server, self._tracker)
                    await self._forget_removed()
                    self._tell(self._tracker.events(self._server.wall()))
                await asyncio.sleep(_LOOK)

    async def _forget_removed(self) -> None:
        """Who is removed from a conversation hears no more of what it sent there."""
        for user, topic in self._tracker.news():
            if await self._server.access.listed(user, HISTORY, topic) is False:
                self._tracker.forget(user, topic)

    async def _sweep(self) -> None:
        if self._recorder is not None and await self._server.may(_LEASE):
            await self._recorder.sweep()

    async def _again(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            with _going_on("times of receipts"):
                await work()

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what was noted, and end. May be called twice."""
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            settings = self._server.settings
            with suppress(TimeoutError):  # what is not written makes times less exact
                async with asyncio.timeout(min(settings.hooks.timeout, settings.mqtt.shutdown_grace) * 0.4):
                    await recorder.flush()


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """While storage is away it is tried again later. Whatever else fails is our bug: it is logged, and stops nothing."""
    try:
        yield
    except (StorageError, Undecided) as error:
        log.debug("%s waits for storage: %s", what, error)
    except Exception:
        log.exception("%s: internal error", what)
