"""Delivery: the connected devices, and what a commit means to them.

A commit hands each entry to the devices that it is due to, and wakes them; nothing is done for the others, whose cursors
stand at the head (`broker.sessions.cursor`). What a device then does with it is its machine's (`broker.delivery.machine`).

Bounds (law 5): a device has at most one page, and a few entries that were pushed, of whose bytes all devices together have a
limit; a socket above its high-water mark is given nothing until it has drained. The backlog itself is in storage.

Over 300 lines: what a commit hands out passes through one loop, whose speed was measured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker.clock import ServerTime
from broker.counters import Counters
from broker.delivery.outbound import Outbound, outbound_of
from broker.pipeline import Pipeline, Step
from broker.publication import Publication
from broker.routing import Match, Trie
from broker.sessions import Cursor, Head, Session
from storage.errors import StorageError
from storage.records import InboxEntry, Message, Operation

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.config import Limits
    from broker.delivery.share import Share
    from broker.delivery.shares import Shares
    from broker.sessions import Slot

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_AT_ONCE = 100


class Reader(Protocol):
    """The reads of storage that delivery needs."""

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]: ...

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]: ...


class Inbox(Head):
    """A user's timeline, while a device of the user is connected; ``connected`` by client id."""

    __slots__ = ("connected", "key")

    def __init__(self, key: str, seq: int) -> None:
        super().__init__(seq)
        self.key = key
        self.connected: dict[str, Outbound] = {}


class Delivery:
    """The timelines in memory, and what serves the connected devices."""

    def __init__(
        self,
        reader: Reader,
        trie: Trie[Session | Share],
        access: AccessControl,
        counters: Counters,
        limits: Limits,
        time: ServerTime,
    ) -> None:
        self.reader = reader
        self.trie = trie
        self.access = access
        self.counters = counters
        self.limits = limits
        self.time = time
        self.pipeline: Pipeline  # set by the server: each needs the other
        self.shares: Shares
        self.tail = Head(0)
        """The tail of the store, which clean sessions read; its sequences are message ids."""
        self.reads = asyncio.Semaphore(32)
        self.watched: dict[str, set[asyncio.Event]] = {}
        """Who waits for news of an inbox without a connection of its own, by user key."""
        self._inboxes: dict[str, Inbox] = {}
        self._groups: dict[str, Share] = {}
        self._targeted: dict[str, list[InboxEntry]] = {}
        """Entries for one device each that the group under way has brought, by user key; `deliver` takes them in order."""
        self._waiting: dict[Cursor, None] = {}
        """Cursors with entries that were pushed and not handed out."""
        self._waiting_bytes = 0
        self._unsaved: list[Outbound] = []
        self._dirty: set[Session | Share] = set()
        self._saver: asyncio.Task[None] | None = None

    @property
    def last_id(self) -> int:
        """The id of the last committed message that is stored."""
        return self.tail.seq

    @last_id.setter
    def last_id(self, value: int) -> None:
        self.tail.seq = value

    # --- connections -----------------------------------------------------------------------------------------------

    def attach(self, session: Session, head: int) -> Outbound:
        """Begin to outbound the session's connection. ``head`` is its inbox's head as of the commit that opened it."""
        if not session.durable:
            cursor = Cursor(self.tail, self.tail.seq)
            session.attach(cursor)
            return Outbound(self, session, cursor, None)
        inbox = self._inboxes.get(session.inbox)
        if inbox is None:
            inbox = self._inboxes[session.inbox] = Inbox(session.inbox, head)
        cursor = Cursor(inbox, session.cursor)
        session.attach(cursor)
        outbound = inbox.connected[session.key.client_id] = Outbound(self, session, cursor, inbox)
        return outbound

    def detach(self, session: Session) -> None:
        """The session's connection ended."""
        outbound = outbound_of(session)
        if outbound is None:
            return
        outbound.close()
        outbound.session.detach()
        self._drop(outbound.cursor)
        inbox = outbound.inbox
        if inbox is not None:
            client_id = outbound.session.key.client_id
            if inbox.connected.get(client_id) is outbound:
                del inbox.connected[client_id]
            if not inbox.connected:
                self._inboxes.pop(inbox.key, None)

    def open_share(self, share: Share) -> None:
        """Begin to outbound a shared subscription group from its inbox."""
        self._groups[share.inbox] = share

    def close_share(self, share: Share) -> None:
        """The group ended."""
        share.close()
        self._groups.pop(share.inbox, None)
        self._drop(share.reader)

    # --- commits ---------------------------------------------------------------------------------------------------

    def deliver(self, publications: list[Publication]) -> None:
        """Hand the messages of a committed group to the devices that they are due to, and wake those."""
        woken: dict[Outbound, None] = {}
        groups: dict[Share, None] = {}
        targeted, self._targeted = self._targeted, {}
        for publication in publications:
            if publication.error is not None or publication.original is not None:
                continue
            found = publication.matched
            assert isinstance(found, Match)
            if publication.recipients:
                self._push(publication, found, targeted, woken, groups)
            if publication.store:
                self.tail.seq = publication.message.id
            if found.live:
                self._push_live(publication, found, woken)
            if not publication.recipients and found.recipients:
                self._push_unkept(publication.message, found, woken)
        for user, entries in targeted.items():
            inbox = self._inboxes.get(user)
            if inbox is not None:
                self._push_targeted(inbox, entries, woken)
        for outbound in woken:
            outbound.pump()
        for share in groups:
            share.pump()
        if self.watched:
            for publication in publications:
                for user in publication.recipients:
                    self.wake_watchers(user)
        if self._waiting_bytes > self.limits.recent_bytes:
            for cursor in list(self._waiting):
                cursor.fall_behind()
                self._drop(cursor)

    def _push(
        self,
        publication: Publication,
        found: Match[Session | Share],
        targeted: dict[str, list[InboxEntry]],
        woken: dict[Outbound, None],
        groups: dict[Share, None],
    ) -> None:
        """Give the message's inbox entries to the connected devices and the groups that it is due to."""
        message, recipients, seqs = publication.message, publication.recipients, publication.inbox_seqs
        whole, readers = recipients is found.recipients, found.readers()
        for index, user in enumerate(recipients):
            inbox = self._inboxes.get(user)
            if inbox is not None:
                if targeted and user in targeted:
                    self._push_targeted(inbox, targeted[user], woken, seqs[index])
                if seqs[index] <= inbox.seq:
                    continue  # the device that opened the inbox read the head after this entry
                entry = InboxEntry(seqs[index], message)
                self._advance(inbox, entry.seq, woken)
                for reader in readers[index if whole else found.recipients.index(user)]:
                    outbound = outbound_of(reader) if isinstance(reader, Session) else None
                    if outbound is not None:
                        outbound.cursor.push(entry)
                        woken[outbound] = None
            elif self._groups:
                share = self._groups.get(user)
                if share is not None:
                    share.push(InboxEntry(seqs[index], message))
                    groups[share] = None

    def _advance(self, inbox: Inbox, seq: int, woken: dict[Outbound, None]) -> None:
        """Move the head. Where entries between are in storage only, all devices look there."""
        if seq != inbox.seq + 1:
            for outbound in inbox.connected.values():
                outbound.cursor.fall_behind()
                woken[outbound] = None
        inbox.seq = seq

    def _push_targeted(
        self, inbox: Inbox, entries: list[InboxEntry], woken: dict[Outbound, None], before: int = 1 << 62
    ) -> None:
        """Give entries that are for one device each to those, as far as they come before another one."""
        while entries and entries[0].seq < before:
            entry = entries.pop(0)
            if entry.seq > inbox.seq:
                self._advance(inbox, entry.seq, woken)
                outbound = inbox.connected.get(entry.target)
                if outbound is not None:
                    outbound.cursor.push(entry)
                    woken[outbound] = None

    def _push_live(self, publication: Publication, found: Match[Session | Share], woken: dict[Outbound, None]) -> None:
        """Give the message to the connected clean sessions."""
        message = publication.message
        entry = InboxEntry(message.id, message)
        for session in found.live:
            outbound = outbound_of(session) if isinstance(session, Session) else None
            if outbound is not None:
                if publication.store:
                    outbound.cursor.push(entry)
                else:
                    outbound.transient(message)
                woken[outbound] = None

    def _push_unkept(self, message: Message, found: Match[Session | Share], woken: dict[Outbound, None]) -> None:
        """Not due to any inbox by policy: whoever is connected and keeps up gets it live."""
        for subscriber in found.subscribers():
            if not isinstance(subscriber, Session):
                subscriber.live(message)
            elif subscriber.durable:
                outbound = outbound_of(subscriber)
                if outbound is not None:
                    outbound.transient(message)
                    woken[outbound] = None

    def count(self, cursor: Cursor) -> None:
        """Keep the sum of what waits in memory, and what one reader may have of it."""
        if cursor.waiting > self.limits.recent_entries:
            cursor.fall_behind()
        self._waiting_bytes += cursor.bytes - cursor.counted
        cursor.counted = cursor.bytes
        if cursor.waiting:
            self._waiting[cursor] = None
        else:
            self._waiting.pop(cursor, None)

    def _drop(self, cursor: Cursor) -> None:
        self._waiting_bytes -= cursor.counted
        cursor.counted = 0
        self._waiting.pop(cursor, None)

    async def read_page(self, session: Session, inbox: Inbox | None, after: int) -> list[InboxEntry]:
        """Entries after one, of the session's timeline, from storage."""
        return await self.persist(session.key.client_id, partial(self._read_page, session, inbox, after))

    async def _read_page(self, session: Session, inbox: Inbox | None, after: int) -> list[InboxEntry]:
        limits = self.limits
        if inbox is None:
            messages = await self.reader.read_tail(after, limits.page_entries, limits.page_bytes)
            return [InboxEntry(message.id, message) for message in messages]
        limit = min(limits.page_entries, max(64, session.window.room))
        return await self.reader.read_inbox(inbox.key, after, limit, limits.page_bytes)

    def tell(self, session: Session, message: Message) -> bool:
        """Give a message that is stored nowhere to one session, and to nobody else; False where it is not connected."""
        outbound = outbound_of(session)
        if outbound is None:
            return False
        outbound.transient(message)
        outbound.pump()
        return True

    def wake_watchers(self, user: str) -> None:
        """An inbox has news for those who watch it."""
        for event in self.watched.get(user, ()):
            event.set()

    def wake_inbox(self, user: str, entries: list[InboxEntry]) -> None:
        """Entries for one device each that the group under way has brought, such as retained messages; `deliver` follows."""
        self.wake_watchers(user)
        if user in self._inboxes:
            self._targeted.setdefault(user, []).extend(entries)

    def subscribed(self, session: Session, unstored: list[Message], entries: list[InboxEntry]) -> None:
        """Filters of a session are in force: give it what is retained for them, ``unstored`` or as ``entries`` of its inbox."""
        if entries:
            self.wake_inbox(session.inbox, entries)
        outbound = outbound_of(session)
        if outbound is not None:
            if unstored:
                outbound.retained(unstored)
            outbound.pump()

    # --- progress --------------------------------------------------------------------------------------------------

    def touch(self, session: Session) -> None:
        """The session's offset moved; it is stored within a second."""
        if session.inbox:
            self.touch_share(session)

    def finished_share(self, slot: Slot) -> None:
        """A member of a shared subscription group acknowledged to the end."""
        share = self.shares.by_inbox(slot.timeline)
        if share is not None:
            share.finished(slot)

    def pump_shares(self, session: Session) -> None:
        """The session has room for more messages of its groups."""
        for filter_ in session.shares:
            share = self.shares.find(filter_)
            if share is not None:
                share.pump()

    def touch_share(self, reader: Session | Share) -> None:
        """The same for a shared subscription group."""
        self._dirty.add(reader)
        if self._saver is None:
            self._saver = asyncio.create_task(self._save_later(), name="offset saver")

    async def _save_later(self) -> None:
        while self._dirty:
            started = time.monotonic()
            dirty, self._dirty = self._dirty, set()
            for reader in dirty:
                self._save_any(reader)
            self._save_some_idle()
            await asyncio.sleep(max(0.0, 0.9 - (time.monotonic() - started)))
        self._saver = None

    def _save_some_idle(self) -> None:
        """Store how far some devices have come that are due nothing: their offsets would hold retention back after a restart.

        In turn, and only where it saves reading a page: it costs a write, and nothing depends on it.
        """
        if not self._unsaved:
            self._unsaved = [outbound for inbox in self._inboxes.values() for outbound in inbox.connected.values()]
        for outbound in self._unsaved[-_IDLE_AT_ONCE:]:
            if not outbound.closed and outbound.cursor.position - outbound.cursor.saved >= self.limits.page_entries:
                self.save(outbound.session)
        del self._unsaved[-_IDLE_AT_ONCE:]

    def _save_any(self, reader: Session | Share) -> None:
        if isinstance(reader, Session):
            self.save(reader)
        else:
            reader.save()

    def save(self, session: Session) -> SaveProgress:
        """Store the session's progress with the next group; calls before that share one write."""
        self._dirty.discard(session)
        step = session.saving
        if not isinstance(step, SaveProgress):
            step = session.saving = SaveProgress(session)
            self.pipeline.submit(step)
        return step

    def unsaved(self, session: Session) -> bool:
        """Whether the session's offset moved, and is still to be stored."""
        return session in self._dirty

    def flush(self) -> None:
        """Store the progress of every session whose offset moved, also where it only moved on with its inbox."""
        for reader in list(self._dirty):
            self._save_any(reader)
        self._dirty.clear()
        for inbox in self._inboxes.values():
            for outbound in inbox.connected.values():
                if outbound.cursor.saved != outbound.session.cursor:
                    self.save(outbound.session)

    def close(self) -> None:
        """Stop the task that stores offsets."""
        if self._saver is not None:
            self._saver.cancel()
            self._saver = None

    async def persist(self, client_id: str, read: Callable[[], Awaitable[T]]) -> T:
        """Read for a device, again and again for as long as storage is away. Few reads run at a time."""
        delay = 0.1
        while True:
            try:
                async with self.reads:
                    return await read()
            except StorageError as error:
                log.warning("cannot read for %s, trying again: %s", client_id, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)


class SaveProgress(Step):
    """Stores a session's progress, and then calls whoever waits for it to be durable."""

    __slots__ = ("_session", "then")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.then: list[SaveWaiter] = []

    def apply(self) -> list[Operation]:
        """What is stored is the state at this place in the order."""
        session = self._session
        session.saving = None
        return [] if session.ended else [session.progress()]

    def done(self) -> None:
        """Go on with what had to be durable first."""
        for waiter in self.then:
            waiter.progress_saved()


class SaveWaiter(Protocol):
    """Whoever may only go on once a session's progress is durable."""

    def progress_saved(self) -> None: ...
