"""Publishes what is due. Storage is the queue: memory holds when the next one is due, and those that are being published.

- Of the nodes of a cluster one publishes: which holds the lease. Another goes on when that one ends.
- A message and the removal of its rows are one group (`before_ack`). Where storage commits a group in several steps, the
  message comes first, under a key by which it is stored once: who finds the rows after a crash publishes it again, in vain.
- What is cancelled is held back first (`hold`), then removed: whoever was told that it is gone will not get it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from broker.access import PUBLISH, info_of
from broker.amqtt import Services, Undecided
from broker.histogram import LATENCY, Histogram
from broker.hooks import Group
from broker.publication import Outgoing, Publication
from broker.rate_limited_log import RateLimitedLog
from plugins.schedules.config import SchedulesConfig
from plugins.schedules.counts import Counts
from plugins.schedules.entry import CLOCKS, DUE, NEVER, Clock, Entry, Place, due_of
from plugins.schedules.recurrence import Recurrence
from storage.errors import FencedOut, MessageRefused, StorageError
from storage.records import EXPIRES_AT_ONCE, DropRow, Operation, Row

log = logging.getLogger("tideline.schedules")

_LEASE = "schedules"
_LOOK = 1.0
"""Seconds between two looks at storage where nothing is known to be due, and at whether it is this node's turn."""
_AT_ONCE = 500
_BYTES = 4 << 20
"""What is published at once: messages, and bytes of them."""
_LEAST = 16
"""Messages that are looked at, at least: most of what is looked at should be due."""
_HELD = 60.0
"""Seconds for which what is being cancelled is held back."""
_REMEMBERED = 7 * 86_400_000
"""For how long (ms) a cluster remembers that a message was published: whose node was killed before its rows were removed must
not come again once another one is started."""
_PATIENCE = 86_400.0
_LATE = (*LATENCY, 60.0, 600.0, 3600.0)
"""Seconds: what downtime makes of it, too."""


class Runner:
    """Publishes for one node."""

    def __init__(self, server: Services, config: SchedulesConfig, counts: Counts) -> None:
        self._server = server
        self._config = config
        self._counts = counts
        self._next: dict[Clock, float] = dict.fromkeys(CLOCKS, 0)
        """When to look for what is due by a clock, by that clock; infinity where nothing is known to be."""
        self._under_way: dict[str, tuple[Publication, Entry]] = {}
        """By idempotency key."""
        self._page = dict.fromkeys(CLOCKS, _LEAST)
        """How many to look at next, by a clock."""
        self._busy: set[Place] = set()
        self._held: dict[Place, float] = {}
        self._news = asyncio.Event()
        self._complaints = RateLimitedLog(log, 10.0)
        self.active = False
        """Whether it is this node's turn."""
        self.published = self.skipped = self.denied = self.refused = 0
        """What became of what was due; `refused`: by what a message may be, or unreadable."""
        self.late = Histogram(_LATE)
        """How long after it was due a message was durable (s)."""

    # --- what others tell --------------------------------------------------------------------------------------------

    def wake(self, place: Place) -> None:
        """Something is due then, and stored."""
        self._next[place.clock] = min(self._next[place.clock], place.due)
        self._news.set()

    def hold(self, place: Place) -> bool:
        """Publish it no more; False where it is too late for that. Removing it must follow."""
        now = asyncio.get_running_loop().time()
        self._held = {place: until for place, until in self._held.items() if until > now}
        if place in self._busy:
            return False
        self._held[place] = now + _HELD
        return True

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self.active = await self._server.may(_LEASE)
                if self.active:
                    await self._publish_for(_LOOK)
                    continue
            except FencedOut:
                self.active = False
                return  # this node ends
            except (StorageError, Undecided) as error:
                self._complaints.warning("what is scheduled waits: %s", error)
            await asyncio.sleep(_LOOK)

    async def _publish_for(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._next = dict.fromkeys(CLOCKS, 0)
        while (left := until - loop.time()) > 0:
            self._news.clear()
            for clock in CLOCKS:
                if self._next[clock] <= self._now(clock):
                    await self._publish_due(clock)
            wait = min((self._next[clock] - self._now(clock)) / 1000 for clock in CLOCKS)
            if wait > 0:
                try:
                    async with asyncio.timeout(min(left, wait)):
                        await self._news.wait()
                except TimeoutError:
                    pass

    def _now(self, clock: Clock) -> int:
        return self._server.now() if clock == "steady" else self._server.wall()

    async def _publish_due(self, clock: Clock) -> None:
        now = self._now(clock)
        self._next[clock] = math.inf
        limit = self._page[clock]
        rows = await self._server.storage.rows(DUE, clock, limit=limit, max_bytes=_BYTES)
        due = [row for row in rows if due_of(row.key) <= now]
        self._page[clock] = min(_AT_ONCE, max(_LEAST, 2 * len(due)))
        held = asyncio.get_running_loop().time()
        ours = [row for row in due if self._held.get(Place(clock, row.key), 0) <= held]
        if len(due) < len(rows):
            self._next[clock] = min(self._next[clock], due_of(rows[len(due)].key))
        elif rows and (ours or self._page[clock] > limit):
            self._next[clock] = now  # there may be more
        if not ours:
            return
        self._busy = {Place(clock, row.key) for row in ours}
        try:
            await self._settle(ours)
        finally:
            self._busy = set()

    # --- one page ----------------------------------------------------------------------------------------------------

    async def _settle(self, rows: Sequence[Row]) -> None:
        """Publish, or skip, what is due. Returns once that is durable."""
        entries: list[Entry] = []
        drops: list[Operation] = []
        for row in rows:
            try:
                entries.append(Entry.decoded(row.value))
            except ValueError as error:
                log.error("schedule %s cannot be read, and is removed: %s", row.key, error)
                self.refused += 1
                drops.append(DropRow(row.table, row.part, row.key))
        may = await asyncio.gather(*(self._may(entry) for entry in entries))
        late = [self._too_late(entry) for entry in entries]
        publications: list[tuple[Publication, Entry]] = []
        for entry, allowed, skip in zip(entries, may, late, strict=True):
            if allowed and not skip:
                publications.append((self._publication(entry), entry))
            else:
                self._note_unpublished(entry, allowed=allowed)
                drops += self._after(entry)
        if drops:
            await self._server.commit(drops, _PATIENCE)
        if publications:
            await self._publish(publications)
        for entry in entries:
            if not entry.repeat:
                self._counts.add(entry.user, -1)

    async def _publish(self, publications: Sequence[tuple[Publication, Entry]]) -> None:
        self._under_way = {publication.idempotency_key: (publication, entry) for publication, entry in publications}
        try:
            outcomes = await self._server.append_all_within([publication for publication, _ in publications], _PATIENCE)
        finally:
            self._under_way = {}
        undecided: BaseException | None = None
        for (_, entry), outcome in zip(publications, outcomes, strict=True):
            if isinstance(outcome, Publication):
                self.published += 1
                self.late.observe(max(0, self._now(entry.clock) - entry.due) / 1000)
            elif isinstance(outcome, MessageRefused):
                self.refused += 1
                self._complaints.warning("schedule %s was refused, and is not published: %s", entry.id, outcome)
            elif isinstance(outcome, BaseException):
                undecided = outcome
        if undecided is not None:
            raise undecided

    async def _may(self, entry: Entry) -> bool:
        """Whether its publisher may still publish there."""
        if entry.free:
            return True
        if self.held(entry):
            return False
        access, info = self._server.access, info_of(entry.user, entry.device or "$http")
        if await access.allowed(info, PUBLISH, entry.topic):
            return True
        access.log_refusal(info, PUBLISH, entry.topic)
        return False

    def held(self, entry: Entry) -> bool:
        """Whether its publisher is shut out at the moment: disabled, deleted or banned, or a client that nobody verified where
        none such comes in any more."""
        if entry.free:
            return False
        who, name = self._server.access.authentication, info_of(entry.user, entry.device).identity.username
        banned = self._server.bans.of(self._server.now(), user=entry.user, client=entry.device)
        return banned is not None or who.bars(name) or who.gone(name) or (name is None and self._no_strangers)

    @property
    def _no_strangers(self) -> bool:
        access, listeners = self._server.access, self._server.settings.listeners
        if access.authentication.verifies_client_ids:
            return False
        return access.authentication.needs_identity or not any(listener.lets_anonymous for listener in listeners)

    def _too_late(self, entry: Entry) -> bool:
        return 0 < self._config.skip * 1000 < self._now(entry.clock) - entry.due

    def _note_unpublished(self, entry: Entry, *, allowed: bool) -> None:
        if allowed:
            self.skipped += 1
            self._complaints.warning("schedule %s is overdue by more than %g s, and skipped", entry.id, self._config.skip)
        else:
            self.denied += 1

    def _publication(self, entry: Entry) -> Publication:
        now = self._server.now()
        message = Outgoing(entry.topic, entry.user, entry.device, entry.qos, entry.payload, entry.retain)
        message.properties = entry.properties
        if entry.expiry != NEVER:
            message.expires = now + entry.expiry * 1000 if entry.expiry else EXPIRES_AT_ONCE
        window = round(self._server.settings.mqtt.idempotency_window * 1000)
        remembered = window if self._server.storage.cluster is None else max(window, _REMEMBERED)
        publication = Publication(message, retain=entry.retain, idempotency_key=entry.once)
        publication.idempotency_at, publication.idempotency_until = now, now + remembered
        return publication

    # --- a group -----------------------------------------------------------------------------------------------------

    def before_ack(self, group: Group) -> None:
        """Have the group of a message that is published remove its rows."""
        if self._under_way:
            for append in group.appends:
                found = self._under_way.get(append.idempotency_key)
                if found is not None and found[0] is append:
                    group.operations += self._after(found[1])

    def _after(self, entry: Entry) -> list[Operation]:
        """What is stored once an entry was published, or is not going to be: it is gone, or due again."""
        if entry.repeat:
            again = self._again(entry)
            if again is not None:
                place = again.place
                self._next[place.clock] = min(self._next[place.clock], place.due)
                return [*again.puts(), DropRow(DUE, *entry.place)]
        return entry.drops()

    def _again(self, entry: Entry) -> Entry | None:
        try:
            due = Recurrence(entry.repeat, entry.timezone).next(entry.due, self._now(entry.clock))
        except ValueError as error:  # a time zone that the machine does not know any more
            log.error("schedule %s does not come again: %s", entry.id, error)
            return None
        return replace(entry, due=due) if due else None
