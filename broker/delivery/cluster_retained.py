"""What is retained for new filters, in a cluster: read from storage once the filters are in force, as no memory has it.

The filters are told to all nodes first. Whoever retains a message looks, once it is in storage, whether somebody subscribed
meanwhile. So a message that is retained at about that time reaches the subscriber one way or the other: as a copy, where it was
in storage when that was read; else as any message. And nothing older comes last:

- What came as a message after the SUBSCRIBE and before the copies is no copy any more, nor is what that replaced.
- Where an inbox got newer values of the same topics while the copies were stored, they are copied once more, behind those.

A message that is due to an inbox just while it is read for a copy may come both ways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Protocol

from broker.pipeline import Step
from broker.retained import Hiding, Reading, hidden_of
from storage.ending import end
from storage.errors import StorageError
from storage.records import InboxEntry, Join, Message, Operation, Subscribe, Subscription

if TYPE_CHECKING:
    from broker.clock import ServerTime
    from broker.retained import StoredRetained
    from broker.sessions import Session

log = logging.getLogger(__name__)

_PAGE = 256
_AGAIN = 0.5
_ROUNDS = 10
"""How often copies are made again for one SUBSCRIBE, where their topics change that fast: then more values follow anyway."""

Give = Callable[[list[Message], list[InboxEntry]], None]
"""Called with copies that are in no timeline, and those that are in the inbox, once that is durable."""


class Reads(Protocol):
    """What is read of storage."""

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]: ...

    async def read_messages(self, ids: Sequence[int]) -> list[Message]: ...


class Arrivals(Protocol):
    """The timeline of clean sessions."""

    def after(self, number: int, limit: int) -> list[tuple[int, int]]: ...


class ClusterRetained:
    """Finds and gives copies. ``arrivals`` is the node's log for its clean sessions."""

    def __init__(
        self, stored: StoredRetained, reads: Reads, arrivals: Arrivals, time: ServerTime, submit: Callable[[Step], None]
    ) -> None:
        self._stored = stored
        self._reads = reads
        self._arrivals = arrivals
        self._time = time
        self._submit = submit
        self._tasks: set[asyncio.Task[None]] = set()

    def find(
        self,
        session: Session,
        subscriptions: Sequence[Subscription],
        filters: Sequence[str],
        present: Callable[[], bool],
        give: Give,
        hiding: Hiding,
    ) -> None:
        """The ``subscriptions`` are in force: have what is retained for ``filters`` given. Nothing is given where the client is
        not ``present`` any more, and nothing that plugins hide from its user."""
        since = min((subscription.since for subscription in subscriptions if subscription.filter in filters), default=0)
        # What came before this SUBSCRIBE, by a filter that stood already, takes no copy's place.
        self._run(self._find(session, subscriptions, filters, max(since, session.cursor), present, give, hiding))

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name="retained messages for a SUBSCRIBE")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("giving retained messages failed", exc_info=error)

    async def _find(
        self,
        session: Session,
        subscriptions: Sequence[Subscription],
        filters: Sequence[str],
        since: int,
        present: Callable[[], bool],
        give: Give,
        hiding: Hiding,
    ) -> None:
        reading = Reading(0)
        reading.wanted = list(filters)
        if not await self._stored.read(reading, present):
            return
        topics = {message.topic for found in reading.found.values() for message in found if hiding.of_members(message.topic)}
        hidden = await hidden_of(hiding, session.key.user, topics, present)
        if hidden is None:
            return
        now = self._time.now()
        copies = {
            message.topic: message
            for found in reading.found.values()
            for message in found
            if (not message.expires or message.expires > now) and message.seq > hidden.get(message.topic, -1)
        }
        if copies and not session.durable:
            await self._without_arrived(copies, since)
        elif copies:
            since = await self._without_entries(session, copies, since, present)
        messages = sorted(copies.values(), key=lambda message: message.id)
        if session.durable and messages and present():
            self._submit(CopiesStep(self, session, subscriptions, messages, since, give))
        else:
            give(messages, [])

    async def _without_arrived(self, copies: dict[str, Message], after: int) -> None:
        """Drop copies of topics that a clean session got a message of in the meantime."""
        while arrivals := self._arrivals.after(after, _PAGE):
            after = arrivals[-1][0]
            try:
                came = await self._reads.read_messages([id_ for _, id_ in arrivals])
            except StorageError:
                return  # it is away: what came is what the session has last
            for message in came:
                _drop(copies, message)

    async def _without_entries(
        self, session: Session, copies: dict[str, Message], after: int, present: Callable[[], bool]
    ) -> int:
        """Drop copies of topics of which the inbox got a message in the meantime; where the inbox ends."""
        while present():
            try:
                entries = await self._reads.read_inbox(session.inbox, after, _PAGE)
            except StorageError:
                await asyncio.sleep(_AGAIN)
                continue
            if not entries:
                break
            for entry in entries:
                if entry.message is not None and not entry.target:
                    _drop(copies, entry.message)
            after = entries[-1].seq
        return after

    def copied(self, step: CopiesStep, first: int) -> None:
        """The copies are in the inbox, the first one there. Where others came before it, see whether those are newer."""
        if first > step.end + 1 and step.round < _ROUNDS:
            self._run(self._copy_newer(step, first))

    async def _copy_newer(self, step: CopiesStep, first: int) -> None:
        copied = {message.topic: message for message in step.messages}
        newer: dict[str, Message] = {}
        after = step.end
        while after < first - 1:
            try:
                entries = await self._reads.read_inbox(step.session.inbox, after, min(_PAGE, first - 1 - after))
            except StorageError:
                await asyncio.sleep(_AGAIN)
                continue
            if not entries:
                break
            for message in (entry.message for entry in entries if entry.message is not None and not entry.target):
                old = copied.get(message.topic)
                if message.retain and message.payload and old is not None and message.seq > old.seq:
                    newer[message.topic] = message
            after = entries[-1].seq
        if newer and not step.session.ended:
            messages = sorted(newer.values(), key=lambda message: message.id)
            again = CopiesStep(self, step.session, step.subscriptions, messages, first + len(step.messages) - 1, step.give)
            again.round = step.round + 1
            self._submit(again)

    async def stop(self) -> None:
        """Give nothing more."""
        await end(list(self._tasks))


def _drop(copies: dict[str, Message], came: Message) -> None:
    copy = copies.get(came.topic)
    if came.retain and copy is not None and came.seq >= copy.seq:
        del copies[came.topic]


class CopiesStep(Step):
    """Copies of retained messages into the inbox of a device, for its subscriptions. ``end`` is where the inbox ended when it
    was read before."""

    def __init__(
        self,
        later: ClusterRetained,
        session: Session,
        subscriptions: Sequence[Subscription],
        messages: list[Message],
        end: int,
        give: Give,
    ) -> None:
        self._later = later
        self.session = session
        self.subscriptions = subscriptions
        self.messages = messages
        self.end = end
        self.give = give
        self.round = 0
        self._operation: Subscribe | None = None

    def apply(self) -> list[Operation]:
        """Its subscriptions stand, but for those that were taken out meanwhile."""
        session = self.session
        if session.ended:
            return []
        standing = [
            Subscription(s.filter, s.options, s.identifier, s.since)
            for s in self.subscriptions
            if s.filter in session.subscriptions
        ]
        self._operation = Subscribe(session.key, session.epoch, standing, self.messages)
        return [self._operation, Join([(session.key.user, message.topic) for message in self.messages])]

    def done(self) -> None:
        """Give them."""
        entries: list[InboxEntry] = []
        operation = self._operation
        if operation is not None and operation.error is None and operation.retained_seqs:
            target = self.session.key.client_id
            pairs = zip(self.messages, operation.retained_seqs, strict=True)
            entries = [InboxEntry(seq, message, target) for message, seq in pairs]
            self._later.copied(self, entries[0].seq)
        self.give([], entries)
