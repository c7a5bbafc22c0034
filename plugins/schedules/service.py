"""What is asked about scheduled messages, over MQTT, HTTP and `$sync/request` alike: to keep one, list them, cancel one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from broker.amqtt import BROKER_USER, Services, Undecided
from broker.hooks import Refusal
from broker.packets import ReasonCode
from broker.publication import Publication
from plugins.schedules.config import SchedulesConfig
from plugins.schedules.counts import Counts
from plugins.schedules.entry import CLOCKS, DUE, ID, NEVER, OF, Entry, Place, name_key, place_of
from plugins.schedules.runner import Runner
from plugins.schedules.topic import check_target
from plugins.schedules.when import When, due_at
from plugins.timelines import OPERATOR, Conflict, NotFound, Timelines, Unprocessable, Who
from plugins.timelines.errors import Away, Forbidden, TooLarge, TooMany
from plugins.timelines.messages import rendered
from plugins.timelines.publishing import Draft
from plugins.timelines.service import PAGE_BYTES
from storage.ending import end
from storage.errors import StorageError
from storage.records import DropRow, Message

log = logging.getLogger("tideline.schedules")

_NOTE = "schedules"
_TRIES = 3
_FREE = (OPERATOR, BROKER_USER)
_ASK_AGAIN = 0.5
_PAGE = 16
"""Rows that are read at once for a list: each may be large."""


class TooManyWait(Refusal):
    """The user has as many as may wait."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} messages of yours wait already", ReasonCode.QUOTA_EXCEEDED)


class TooLargeToWait(Refusal):
    """The message is larger than may wait."""


class Schedules:
    """The service of one node. ``timeout``: seconds that a write may wait for storage."""

    def __init__(self, server: Services, config: SchedulesConfig, timeout: float = 10.0) -> None:
        self._server = server
        self._config = config
        self._timeout = timeout
        self._counts = Counts(server, config.max_per_user)
        self.runner = Runner(server, config, self._counts)
        self._earliest: Place | None = None
        """What whoever publishes is to be told of: the earliest will do."""
        self._telling: asyncio.Task[None] | None = None

    def started(self) -> None:
        """Other nodes may ask."""
        self._server.answer_nodes(_NOTE, self._answer)

    async def close(self) -> None:
        """Tell nobody any more."""
        await end([self._telling])

    # --- keeping -----------------------------------------------------------------------------------------------------

    async def keep(self, publication: Publication, topic: str, wanted: When, id: int) -> tuple[Entry, bool]:
        """What is to be stored of a message, and whether it is new: else it is one that waits under the same name already.
        Raises `Refusal` and `StorageError`."""
        check_target(topic)
        clock, due, again = due_at(wanted, self._server.now(), self._server.wall(), self._config)
        message, now = publication.message, self._server.now()
        entry = Entry(
            id=f"{id:016x}",
            clock=clock,
            due=due,
            user=message.user,
            device=message.device,
            topic=topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            expiry=-(-max(0, message.expires - now) // 1000) if message.expires else NEVER,
            properties=bytes(message.properties),
            free=message.user in _FREE,
            repeat=again.text if again is not None else "",
            timezone=wanted.timezone,
            name=publication.idempotency_key,
        )
        if entry.size > self._config.size:
            raise TooLargeToWait(f"payload and properties of {entry.size} bytes: at most {self._config.size} may wait")
        if entry.name and (known := await self._named(entry)) is not None:
            return known, False
        if not await self._counts.room(entry.user, asyncio.get_running_loop().time()):
            raise TooManyWait(self._config.max_per_user)
        return entry, True

    async def _named(self, entry: Entry) -> Entry | None:
        """The one that waits under the same name."""
        row = await self._server.storage.row(OF, entry.user, name_key(entry.name))
        known = None if row is None else await self._find(entry.user, row.value.decode())
        if known is not None and (known.topic, known.payload) != (entry.topic, entry.payload):
            raise Refusal(f"{entry.name[:80]!r} names another message that waits")
        return known

    def taken(self, entry: Entry) -> None:
        """It is in a group, or is to be."""
        self._counts.add(entry.user)

    def kept(self, place: Place) -> None:
        """It is durable: whoever publishes must know that it is there."""
        if self.runner.active or self._server.storage.cluster is None:
            self.runner.wake(place)
        elif self._earliest is None or place.due < self._earliest.due:
            self._earliest = place
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell(), name="telling of schedules")

    async def _tell(self) -> None:
        while (place := self._earliest) is not None:
            self._earliest = None
            try:
                await self._server.ask_nodes(_NOTE, {"wake": list(place)})
            except StorageError as error:  # it is found within a second all the same
                log.debug("nobody is told of a schedule: %s", error)

    async def schedule(self, who: Who, draft: Draft, wanted: When) -> tuple[dict[str, Any], bool]:
        """Keep a message of a caller. The entry as it is shown, and whether it is new."""
        try:
            check_target(draft.topic)
            publication = await Timelines(self._server, self._timeout).publisher.prepared(who, draft)
            entry, new = await self.keep(publication, draft.topic, wanted, secrets.randbits(62) | 1 << 62)
        except TooManyWait as refusal:
            raise TooMany(str(refusal)) from refusal
        except TooLargeToWait as refusal:
            raise TooLarge(str(refusal)) from refusal
        except Refusal as refusal:
            raise (Forbidden if refusal.code == ReasonCode.NOT_AUTHORIZED else Unprocessable)(str(refusal)) from refusal
        if not new:
            return self._shown(entry), False
        if who.operator and not entry.free:
            entry = replace(entry, free=True)
        self.taken(entry)
        try:
            await Timelines(self._server, self._timeout).written(entry.puts())
        except Exception:
            self._counts.add(entry.user, -1)
            raise
        self.kept(entry.place)
        return self._shown(entry), True

    # --- listing -----------------------------------------------------------------------------------------------------

    async def listed(self, user: str, after: str, limit: int) -> dict[str, Any]:
        """A page of a user's, by id."""
        found: list[dict[str, Any]] = []
        size, place = 0, ID + after
        while len(found) < limit and size < PAGE_BYTES:
            rows = await self._server.storage.rows(OF, user, after=place, prefix=ID, limit=min(_PAGE, limit - len(found)))
            if not rows:
                return {"schedules": found, "next": None}
            for row in rows:
                place = row.key
                entry = await self._find(user, row.key.removeprefix(ID))
                if entry is not None:
                    found.append(self._shown(entry))
                    size += entry.size
        return {"schedules": found, "next": place.removeprefix(ID)}

    async def all(self, after: str, limit: int) -> dict[str, Any]:
        """A page of all users', by when they are due: first those that wait for some time, then those that wait for a time."""
        start, _, key = after.partition("/")
        found: list[dict[str, Any]] = []
        size = 0
        for clock in CLOCKS[CLOCKS.index(start) if start in CLOCKS else 0 :]:
            last = key if clock == start else ""
            while rows := await self._server.storage.rows(DUE, clock, after=last, limit=min(_PAGE, limit)):
                for row in rows:
                    if len(found) >= limit or size >= PAGE_BYTES:
                        return {"schedules": found, "next": f"{clock}/{last}"}
                    found.append(self._shown(Entry.decoded(row.value)))
                    last, size = row.key, size + len(row.value)
        return {"schedules": found, "next": None}

    async def one(self, user: str, id: str) -> dict[str, Any]:
        """One of a user's. Raises `NotFound`."""
        entry = await self._find(user, id)
        if entry is None:
            raise _none(id)
        return self._shown(entry)

    async def _find(self, user: str, id: str) -> Entry | None:
        for _ in range(_TRIES):
            index = await self._server.storage.row(OF, user, ID + id)
            if index is None:
                return None
            row = await self._server.storage.row(DUE, *place_of(index.value))
            if row is not None:
                return Entry.decoded(row.value)
        return None  # it was published in between, or a node was killed before it had written all of it

    def _shown(self, entry: Entry) -> dict[str, Any]:
        message = Message(0, entry.topic, entry.user, entry.device, 0, entry.qos, entry.payload, entry.retain)
        message.properties = entry.properties
        shown = rendered(message)
        for name in ("id", "seq", "time", "expires"):
            del shown[name]
        skew = self._server.wall() - self._server.now() if entry.clock == "steady" else 0
        repeated = {"schedule": entry.repeat or None, "timezone": entry.timezone or None}
        expiry = None if entry.expiry == NEVER else entry.expiry
        state = {"held": self.runner.held(entry), "expiry": expiry}
        return {"id": entry.id, "due": entry.due + skew, **repeated, **state, **shown}

    # --- cancelling --------------------------------------------------------------------------------------------------

    async def cancel(self, user: str, id: str) -> None:
        """Once it returns, the message is not published any more. Raises `NotFound`, and `Conflict` where it is just being."""
        for _ in range(_TRIES):
            entry = await self._find(user, id)
            if entry is None:
                break
            if await self.remove(entry):
                return
        raise _none(id)

    async def remove(self, entry: Entry) -> bool:
        """Hold an entry back and remove it; False where it is in its place no more. Raises `Conflict` and `Away`."""
        if not await self._hold(entry.place):
            raise Conflict(f"schedule {entry.id[:40]!r}: it is being published")
        drops = entry.drops()
        await Timelines(self._server, self._timeout).written(drops)  # where that fails, it is held back for a while
        assert isinstance(drops[0], DropRow)
        if drops[0].revision:
            self._counts.add(entry.user, -1)
        return bool(drops[0].revision)

    async def _hold(self, place: Place) -> bool:
        """Have whoever publishes hold it back."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        while asyncio.get_running_loop().time() < deadline:
            if self.runner.active:
                return self.runner.hold(place)
            try:
                answer = await self._server.ask_nodes(_NOTE, {"hold": list(place)})
            except (StorageError, Undecided) as error:
                raise Away(f"nothing was changed: {error}", retry_after=5) from error
            if answer is not None:
                return bool(answer["held"])
            await asyncio.sleep(_ASK_AGAIN)
        raise Away("no node publishes what is scheduled at the moment: nothing was changed", retry_after=5)

    def _answer(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not self.runner.active:
            return None
        if "wake" in body:
            self.runner.wake(Place(*body["wake"]))
            return {}
        return {"held": self.runner.hold(Place(*body["hold"]))}


def _none(id: str) -> NotFound:
    return NotFound(f"schedule {id[:40]!r}: none of yours waits, or it was published")
