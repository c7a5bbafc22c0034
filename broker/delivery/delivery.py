"""Delivery: one loop over one cursor for each connected device.

A commit only wakes the loop. A device at the head of its timeline is served from what the commit left in memory; one that
is behind reads pages from storage until it is at the head again. Both are the same `Feed.pump`, which takes the next entry
after the cursor from wherever it is, so that an entry is given once and in order across the switch.

Bounds (law 5): a feed holds at most one page; a timeline keeps a few recent entries; a socket above its high-water mark is
given nothing until it has drained; a full window stops the loop. The backlog itself is in storage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker.clock import ServerTime
from broker.counters import Counters
from broker.delivery.feeds import Feed, InboxFeed, TailFeed
from broker.pipeline import Pipeline, Step
from broker.routing.trie import Match, Trie
from broker.sessions.session import Session
from storage.errors import StorageError
from storage.records import Append, InboxEntry, Message, Operation

if TYPE_CHECKING:
    from broker.access.authority import Authority
    from broker.config.settings import Limits
    from broker.delivery.shares import Share, Shares
    from broker.sessions.window import Slot

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reader(Protocol):
    """The reads of storage that delivery needs."""

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]: ...

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]: ...


class TimelineReader(Protocol):
    """Whoever goes along an inbox: a device's feed, or a shared subscription group."""

    @property
    def looked_at(self) -> int:
        """The highest entry that it needs no more from memory."""

    def pump(self) -> None:
        """There may be something new."""


class Inbox:
    """A user's timeline, while a device of the user is connected.

    ``head`` is the last committed sequence. ``recent`` holds the entries up to it that some device has not looked at yet,
    without gaps, as far as they fit.
    """

    __slots__ = ("feeds", "head", "key", "recent", "recent_bytes")

    def __init__(self, key: str, head: int) -> None:
        self.key = key
        self.head = head
        self.feeds: list[TimelineReader] = []
        self.recent: deque[InboxEntry] = deque()
        self.recent_bytes = 0

    def push(self, entry: InboxEntry, max_entries: int) -> int:
        """Add a committed entry; returns by how many bytes ``recent`` grew."""
        if entry.seq <= self.head:
            return 0  # the device that opened the inbox read the head after this entry
        before = self.recent_bytes
        if entry.seq != self.head + 1:
            self.clear()  # the entries between are in storage only, and `recent` must have no gap
        self.head = entry.seq
        self.recent.append(entry)
        if entry.message is not None:
            self.recent_bytes += len(entry.message.payload)
        if len(self.recent) > max_entries:
            oldest = self.recent.popleft()
            if oldest.message is not None:
                self.recent_bytes -= len(oldest.message.payload)
        return self.recent_bytes - before

    def find(self, seq: int) -> InboxEntry | None:
        """The entry with this sequence, if memory still has it."""
        recent = self.recent
        if not recent:
            return None
        index = seq - recent[0].seq
        return recent[index] if 0 <= index < len(recent) else None

    def trim(self) -> int:
        """Drop what every device has looked at; returns how many bytes that freed."""
        recent = self.recent
        lowest = min((feed.looked_at for feed in self.feeds), default=self.head)
        if lowest >= self.head:
            freed = self.recent_bytes
            recent.clear()
            self.recent_bytes = 0
            return freed
        freed = 0
        while recent and recent[0].seq <= lowest:
            message = recent.popleft().message
            freed += len(message.payload) if message is not None else 0
        self.recent_bytes -= freed
        return freed

    def clear(self) -> int:
        """Drop everything; the devices read from storage. Returns how many bytes that freed."""
        freed, self.recent_bytes = self.recent_bytes, 0
        self.recent.clear()
        return freed


class Delivery:
    """The timelines in memory, and the feeds of the connected devices."""

    def __init__(
        self,
        reader: Reader,
        trie: Trie[Session | Share],
        authority: Authority,
        counters: Counters,
        limits: Limits,
        time: ServerTime,
    ) -> None:
        self.reader = reader
        self.trie = trie
        self.authority = authority
        self.counters = counters
        self.limits = limits
        self.time = time
        self.pipeline: Pipeline  # set by the server: each needs the other
        self.shares: Shares
        self.last_id = 0
        """The id of the last committed message: the head of the tail timeline."""
        self.reads = asyncio.Semaphore(32)
        self.watched: dict[str, set[asyncio.Event]] = {}
        """Who waits for news of an inbox without a connection of its own, by user key."""
        self._inboxes: dict[str, Inbox] = {}
        self._recent_bytes = 0
        self._dirty: set[Session | Share] = set()
        self._saver: asyncio.Task[None] | None = None

    # --- connections -----------------------------------------------------------------------------------------------

    def attach(self, session: Session, head: int) -> Feed:
        """Begin to feed the session's connection. ``head`` is its inbox's head as of the commit that opened it."""
        if not session.durable:
            session.cursor = self.last_id
            return TailFeed(self, session)
        inbox = self._inboxes.get(session.inbox)
        if inbox is None:
            inbox = self._inboxes[session.inbox] = Inbox(session.inbox, head)
        feed = InboxFeed(self, session, inbox)
        inbox.feeds.append(feed)
        return feed

    def detach(self, feed: Feed) -> None:
        """The feed's connection ended."""
        feed.close()
        if isinstance(feed, InboxFeed):
            inbox = feed.inbox
            inbox.feeds.remove(feed)
            if not inbox.feeds:
                self._recent_bytes -= inbox.clear()
                self._inboxes.pop(inbox.key, None)

    def open_share(self, share: Share, head: int) -> None:
        """Begin to feed a shared subscription group from its inbox."""
        inbox = self._inboxes[share.inbox] = Inbox(share.inbox, head)
        inbox.feeds.append(share)
        share.timeline = inbox

    def close_share(self, share: Share) -> None:
        """The group ended."""
        share.close()
        inbox = self._inboxes.pop(share.inbox, None)
        if inbox is not None:
            self._recent_bytes -= inbox.clear()
        share.timeline = None

    # --- commits ---------------------------------------------------------------------------------------------------

    def deliver(self, appends: list[Append]) -> None:
        """Wake the devices that the messages of a committed group are for."""
        inboxes = self._inboxes
        max_entries = self.limits.recent_entries
        woken: dict[Inbox, None] = {}
        feeds: dict[Feed, None] = {}
        grown = 0
        for append in appends:
            if append.error is not None or append.original is not None:
                continue
            message = append.message
            if append.store:
                self.last_id = message.id
            if append.recipients:
                for user, seq in zip(append.recipients, append.inbox_seqs, strict=True):
                    inbox = inboxes.get(user)
                    if inbox is not None:
                        grown += inbox.push(InboxEntry(seq, message), max_entries)
                        woken[inbox] = None
            found = append.matched
            assert isinstance(found, Match)
            if found.live:
                for session in found.live:
                    feed = session.connection.feed if session.connection is not None else None
                    if isinstance(feed, TailFeed):
                        feed.push(message, stored=append.store)
                        feeds[feed] = None
            if not append.recipients and found.recipients:
                # Not due to any inbox by policy: whoever is connected and keeps up gets it live.
                for subscriber in found.grants:
                    if not isinstance(subscriber, Session):
                        subscriber.live(message)
                    elif subscriber.durable and subscriber.connection is not None:
                        feed = subscriber.connection.feed
                        if feed is not None:
                            feed.transient(message)
                            feeds[feed] = None
        self._recent_bytes += grown
        for inbox in woken:
            for reader in tuple(inbox.feeds):
                reader.pump()
            self._recent_bytes -= inbox.trim()
        for feed in feeds:
            feed.pump()
        if self.watched:
            for append in appends:
                for user in append.recipients:
                    self.wake_watchers(user)
        if self._recent_bytes > self.limits.recent_bytes:
            for inbox in inboxes.values():
                self._recent_bytes -= inbox.clear()

    def wake_watchers(self, user: str) -> None:
        """An inbox has news for those who watch it."""
        for event in self.watched.get(user, ()):
            event.set()

    def wake_inbox(self, user: str, entries: list[InboxEntry]) -> None:
        """Committed entries that did not come with a message of the group, such as retained ones."""
        self.wake_watchers(user)
        inbox = self._inboxes.get(user)
        if inbox is not None:
            for entry in entries:
                self._recent_bytes += inbox.push(entry, self.limits.recent_entries)

    def subscribed(self, session: Session, unstored: list[Message], entries: list[InboxEntry]) -> None:
        """Filters of a session are in force: give it what is retained for them, ``unstored`` or as ``entries`` of its inbox."""
        if entries:
            self.wake_inbox(session.inbox, entries)
        feed = session.connection.feed if session.connection is not None else None
        if feed is not None:
            if unstored:
                feed.retained(unstored)
            feed.pump()

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
            await asyncio.sleep(max(0.0, 0.9 - (time.monotonic() - started)))
        self._saver = None

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

    def flush(self) -> None:
        """Store the progress of every session whose offset moved, at shutdown."""
        for reader in list(self._dirty):
            self._save_any(reader)
        self._dirty.clear()

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
