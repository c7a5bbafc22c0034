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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker.clock import ServerTime
from broker.counters import Counters
from broker.delivery.arrivals import ArrivalLog
from broker.delivery.heard import Heard
from broker.delivery.outbound import Outbound, outbound_of
from broker.delivery.recalled import Recalled
from broker.packets import ReasonCode
from broker.pipeline import Pipeline, Step
from broker.publication import Outgoing, Publication
from broker.routing import Match, Trie
from broker.sessions import Cursor, Head, Member, Session
from storage.cluster import Wake
from storage.errors import StorageError, StorageUnusable
from storage.records import InboxEntry, Message, Operation

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.config import Limits
    from broker.delivery.shared_group import SharedGroup
    from broker.delivery.shared_groups import SharedGroups

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_AT_ONCE = 100
_MOST_EARLY = 20_000
_AT_ONCE = 32
"""Messages that are read by their ids at once."""


class Reader(Protocol):
    """The reads of storage that delivery needs."""

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]: ...

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]: ...

    async def read_messages(self, ids: Sequence[int]) -> list[Message]: ...


class StoredHead(Head):
    """The end of a timeline that is kept under a user key."""

    __slots__ = ("key",)

    def __init__(self, key: str, seq: int) -> None:
        super().__init__(seq)
        self.key = key


class Inbox(StoredHead):
    """A user's timeline, while a device of the user is connected; ``connected`` by client id."""

    __slots__ = ("connected",)

    def __init__(self, key: str, seq: int) -> None:
        super().__init__(key, seq)
        self.connected: dict[str, Outbound] = {}


class Channel(StoredHead):
    """An inbox that many users share, while a member is connected; ``connected`` with the member's cursor."""

    __slots__ = ("connected",)

    def __init__(self, key: str, seq: int) -> None:
        super().__init__(key, seq)
        self.connected: dict[Session, tuple[Cursor, Outbound]] = {}


class Delivery:
    """The timelines in memory, and what serves the connected devices."""

    def __init__(
        self,
        reader: Reader,
        trie: Trie[Session | SharedGroup],
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
        self.recalled = Recalled()
        self.pipeline: Pipeline  # set by the server: each needs the other
        self.shared_groups: SharedGroups
        self.tail = Head(0)
        """The tail of the store, which clean sessions read; its sequences are message ids, or in a cluster those of ``log``."""
        self.log: ArrivalLog | None = None
        """None where storage serves one node."""
        self.number = 0
        """In a cluster: this node's, which is in the ids of its messages."""
        self._heard = Heard()
        """Of the messages for clean sessions, those that came, in a cluster."""
        self._heard_unkept = Heard()
        """The same of those that are live only."""
        self._early: dict[str, int] = {}
        """Where inboxes end of which other nodes told before their devices were connected all the way; a bounded number."""
        self.reads = asyncio.Semaphore(32)
        self.watched: dict[str, set[asyncio.Event]] = {}
        """Who waits for news of an inbox without a connection of its own, by user key."""
        self._inboxes: dict[str, Inbox] = {}
        self._channels: dict[str, Channel] = {}
        self._groups: dict[str, SharedGroup] = {}
        self._targeted: dict[str, list[InboxEntry]] = {}
        """Entries for one device each that the group under way has brought, by user key; `deliver` takes them in order."""
        self._waiting: dict[Cursor, None] = {}
        """Cursors with entries that were pushed and not handed out."""
        self._waiting_bytes = 0
        self._unsaved: list[Outbound] = []
        self._dirty: set[Session | SharedGroup] = set()
        self._saver: asyncio.Task[None] | None = None
        self.watchers: list[Callable[[Sequence[Operation]], None]] = []
        """Told the progress of devices as it is at its place in the order, before it is durable. None of them may wait."""

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
            if self._early:
                head = max(head, self._early.pop(session.inbox, 0))
            inbox = self._inboxes[session.inbox] = Inbox(session.inbox, head)
        cursor = Cursor(inbox, session.cursor)
        session.attach(cursor)
        outbound = inbox.connected[session.key.client_id] = Outbound(self, session, cursor, inbox)
        if session.channels is not None:
            for member in session.channels.values():
                self._attach_member(outbound, member)
        return outbound

    def _attach_member(self, outbound: Outbound, member: Member) -> None:
        """Have the connection read a channel too, from the member's place."""
        channel = self._channels.get(member.channel)
        if channel is None:
            head = max(member.head, self._early.pop(member.channel, 0)) if self._early else member.head
            channel = self._channels[member.channel] = Channel(member.channel, head)
        cursor = Cursor(channel, member.position)
        member.attach(cursor)
        channel.connected[outbound.session] = (cursor, outbound)
        outbound.machine.joined(member)

    def _detach_member(self, outbound: Outbound, member: Member) -> None:
        cursor, channel = member.reader, self._channels.get(member.channel)
        if cursor is None:
            return
        member.detach()
        self._drop(cursor)
        if channel is not None:
            channel.connected.pop(outbound.session, None)
            if not channel.connected:
                del self._channels[member.channel]

    def joined_channel(self, session: Session, member: Member) -> None:
        """The session is a member of one more channel, durably; `Outbound.pump` follows."""
        outbound = outbound_of(session)
        if outbound is not None:
            self._attach_member(outbound, member)

    def left_channel(self, session: Session, member: Member) -> None:
        """The session is a member no longer."""
        outbound = outbound_of(session)
        if outbound is not None:
            outbound.machine.left(member)
            self._detach_member(outbound, member)

    def detach(self, session: Session) -> None:
        """The session's connection ended."""
        outbound = outbound_of(session)
        if outbound is None:
            return
        outbound.close()
        outbound.session.detach()
        self._drop(outbound.cursor)
        for member in outbound.session.members:
            self._detach_member(outbound, member)
        inbox = outbound.inbox
        if inbox is not None:
            client_id = outbound.session.key.client_id
            if inbox.connected.get(client_id) is outbound:
                del inbox.connected[client_id]
            if not inbox.connected:
                self._inboxes.pop(inbox.key, None)

    def open_shared_group(self, group: SharedGroup) -> None:
        """Begin to outbound a shared subscription group from its inbox."""
        self._groups[group.inbox] = group

    def close_shared_group(self, group: SharedGroup) -> None:
        """The group ended."""
        group.close()
        self._groups.pop(group.inbox, None)
        self._drop(group.machine.reader)

    # --- commits ---------------------------------------------------------------------------------------------------

    def deliver(self, publications: list[Publication]) -> None:
        """Hand the messages of a committed group to the devices that they are due to, and wake those."""
        woken: list[Outbound] = []
        groups: dict[SharedGroup, None] = {}
        targeted, self._targeted = self._targeted, {}
        for publication in publications:
            if publication.error is not None or publication.original is not None:
                continue
            found = publication.matched
            assert isinstance(found, Match)
            if publication.recipients:
                self._push(publication, found, targeted, woken, groups)
            message, live = publication.message, bool(found.live)
            if publication.store:
                if self.log is None:
                    self.tail.seq = message.id
                elif live:
                    live = self._heard.is_first(message.id, self.number)  # else another node had stored it, and told of it
                    if live:
                        self.tail.seq = self.log.append(message.id)
            if live:
                self._push_live(message, publication.store, found, woken)
            unkept = not publication.recipients and found.recipients
            if unkept and (self.log is None or self._heard_unkept.is_first(message.id, self.number)):
                self._push_unkept(message, found, woken)
        for user, entries in targeted.items():
            inbox = self._inboxes.get(user)
            if inbox is not None:
                self._push_targeted(inbox, entries, woken)
        if self.watched:
            for publication in publications:
                for user in publication.recipients:
                    self.wake_watchers(user)
        self._wake(woken, groups)

    def _wake(self, woken: list[Outbound], groups: dict[SharedGroup, None]) -> None:
        """Have them write what they were given, as far as they can; what is too much for memory is read again later."""
        for outbound in woken:
            outbound.pump()
        woken.clear()
        for group in groups:
            group.pump()
        if self._waiting_bytes > self.limits.recent_bytes:
            for cursor in list(self._waiting):
                cursor.fall_behind()
                self._drop(cursor)

    def _push(
        self,
        publication: Publication,
        found: Match[Session | SharedGroup],
        targeted: dict[str, list[InboxEntry]],
        woken: list[Outbound],
        groups: dict[SharedGroup, None],
    ) -> None:
        """Give the message's inbox entries to the connected devices and the groups that it is due to."""
        message, recipients, seqs = publication.message, publication.recipients, publication.inbox_seqs
        places = seqs if isinstance(seqs, list) else list(seqs)
        whole, readers = recipients is found.recipients, found.readers()
        for index, user in enumerate(recipients):
            here = readers[index] if whole else _readers_of(found, user)
            inbox = self._inbox(user, here)
            if inbox is not None:
                seq = places[index]
                if targeted and user in targeted:
                    self._push_targeted(inbox, targeted[user], woken, seq)
                if seq <= inbox.seq:
                    continue  # the device that opened the inbox read the head after this entry
                entry = InboxEntry(seq, message)
                self._advance(inbox, seq, woken)
                for reader in here:
                    outbound = outbound_of(reader) if isinstance(reader, Session) else None
                    if outbound is not None:
                        outbound.cursor.push(entry)
                        outbound.wake_with(woken)
            elif self._groups or self._channels:
                group = self._groups.get(user)
                channel = self._channels.get(user)
                if group is not None:
                    group.push(InboxEntry(places[index], message))
                    groups[group] = None
                elif channel is not None:
                    self._push_channel(channel, InboxEntry(places[index], message), here, woken)

    def _inbox(self, user: str, readers: list[Session | SharedGroup]) -> Inbox | None:
        """The inbox, where a device of it is connected. Mostly the first that is due a message says so, without a look-up."""
        reader = readers[0] if readers else None
        outbound = outbound_of(reader) if isinstance(reader, Session) else None
        inbox = None if outbound is None else outbound.inbox
        return inbox if inbox is not None and inbox.key == user else self._inboxes.get(user)

    def _push_channel(
        self,
        channel: Channel,
        entry: InboxEntry,
        readers: Iterable[Session | SharedGroup],
        woken: list[Outbound],
    ) -> None:
        """Give an entry of a channel to those of the readers that are connected."""
        seq = entry.seq
        if seq <= channel.seq:
            return  # the member that opened it read the head after this entry
        connected = channel.connected
        if seq != channel.seq + 1 or entry.message is None:
            for cursor, outbound in connected.values():
                cursor.fall_behind()
                outbound.wake_with(woken)
        channel.seq = seq
        if entry.message is None:
            return
        for reader in readers:
            found = connected.get(reader) if isinstance(reader, Session) else None
            if found is not None:
                found[0].push(entry)
                found[1].wake_with(woken)

    def _advance(self, inbox: Inbox, seq: int, woken: list[Outbound], at_hand: bool = True) -> None:
        """Move the head. Where entries between are in storage only, or this one is not ``at_hand``, all devices look there."""
        if seq != inbox.seq + 1 or not at_hand:
            for outbound in inbox.connected.values():
                outbound.cursor.fall_behind()
                outbound.wake_with(woken)
        inbox.seq = seq

    def _push_targeted(self, inbox: Inbox, entries: list[InboxEntry], woken: list[Outbound], before: int = 1 << 62) -> None:
        """Give entries that are for one device each to those, as far as they come before another one."""
        while entries and entries[0].seq < before:
            entry = entries.pop(0)
            if entry.seq > inbox.seq:
                self._advance(inbox, entry.seq, woken)
                outbound = inbox.connected.get(entry.target)
                if outbound is not None:
                    outbound.cursor.push(entry)
                    outbound.wake_with(woken)

    def _push_live(self, message: Message, stored: bool, found: Match[Session | SharedGroup], woken: list[Outbound]) -> None:
        """Give the message to the connected clean sessions; a ``stored`` one is at the end of their timeline."""
        entry = InboxEntry(self.tail.seq, message)
        for session in found.live:
            outbound = outbound_of(session) if isinstance(session, Session) else None
            if outbound is not None:
                if stored:
                    outbound.cursor.push(entry)
                else:
                    outbound.transient(message)
                outbound.wake_with(woken)

    # --- what other nodes commit ---------------------------------------------------------------------------------------

    def arrived(self, number: int, wakes: Sequence[Wake], live: Sequence[Message], transient: Sequence[Message]) -> None:
        """What a group of another node, of that number, means to the devices here: see `storage.cluster.Parcel`.

        The next entry of an inbox is delivered as it came. One that leaves a gap has all devices look in storage, up to it; an
        older one was had. Of ``transient`` those that are stored are for durable sessions, as the others get them ``live``.
        """
        woken: list[Outbound] = []
        groups: dict[SharedGroup, None] = {}
        shared: dict[int, Message] = {}
        for wake in wakes:
            message = wake.message
            if message is not None and (known := shared.get(message.id)) is not None:
                message = known
            elif message is not None:
                message = shared[message.id] = Outgoing.of(message)
            self._arrived_in_inbox(wake.user, InboxEntry(wake.seq, message, wake.target), woken, groups)
        for message in live:
            found = self.trie.match(message.topic)
            if found.live and self.log is not None and self._heard.is_first(message.id, number):
                self.tail.seq = self.log.append(message.id)
                self._push_live(Outgoing.of(message), True, found, woken)
        for message in transient:
            if not self._heard_unkept.is_first(message.id, number):
                continue
            found = self.trie.match(message.topic)
            message = Outgoing.of(message)
            if found.live and not message.seq:
                self._push_live(message, False, found, woken)
            if found.recipients:
                self._push_unkept(message, found, woken)
        self._wake(woken, groups)

    def _arrived_in_inbox(self, user: str, entry: InboxEntry, woken: list[Outbound], groups: dict[SharedGroup, None]) -> None:
        self.wake_watchers(user)
        inbox = self._inboxes.get(user)
        if inbox is None:
            group = self._groups.get(user)
            channel = self._channels.get(user)
            if channel is not None:
                self._push_channel(channel, entry, self._readers_here(user, entry.message), woken)
            elif group is not None:
                if entry.message is None:
                    group.in_storage(entry.seq)
                else:
                    group.push(entry)
                groups[group] = None
            else:
                self._came_early(user, entry.seq)
            return
        seq, message = entry.seq, entry.message
        if seq <= inbox.seq:
            return
        self._advance(inbox, seq, woken, at_hand=message is not None)
        if message is None:
            return
        found = self.trie.match(message.topic)
        for client_id, outbound in inbox.connected.items():
            if entry.target == client_id or (not entry.target and found.granted(outbound.session)):
                outbound.cursor.push(entry)
                outbound.wake_with(woken)

    def _readers_here(self, user: str, message: Message | None) -> Sequence[Session | SharedGroup]:
        return [] if message is None else _readers_of(self.trie.match(message.topic), user)

    def _came_early(self, user: str, seq: int) -> None:
        early = self._early
        early[user] = max(seq, early.pop(user, 0))
        if len(early) > _MOST_EARLY:
            del early[next(iter(early))]

    def _push_unkept(self, message: Message, found: Match[Session | SharedGroup], woken: list[Outbound]) -> None:
        """Not due to any inbox by policy: whoever is connected and keeps up gets it live."""
        for subscriber in found.subscribers():
            if not isinstance(subscriber, Session):
                subscriber.live(message)
            elif subscriber.durable:
                outbound = outbound_of(subscriber)
                if outbound is not None:
                    outbound.transient(message)
                    outbound.wake_with(woken)

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

    async def read_page(self, session: Session, head: Head, after: int) -> list[InboxEntry]:
        """Entries after one, of a timeline of the session's, from storage."""
        return await self.persist(session.key.client_id, partial(self._read_page, session, head, after))

    async def _read_page(self, session: Session, head: Head, after: int) -> list[InboxEntry]:
        limits = self.limits
        if not isinstance(head, StoredHead):
            if self.log is not None:
                return await self._read_log(self.log, session, after)
            messages = await self.reader.read_tail(after, limits.page_entries, limits.page_bytes)
            return [InboxEntry(message.id, message) for message in messages]
        limit = min(limits.page_entries, max(64, session.window.room))
        return await self.reader.read_inbox(head.key, after, limit, limits.page_bytes)

    async def _read_log(self, log: ArrivalLog, session: Session, after: int) -> list[InboxEntry]:
        """A page of a clean session's timeline in a cluster. One that fell behind all that the log has loses QoS 0, counted, or
        its connection."""
        missed = log.first - 1 - after
        if missed > 0:
            if any(subscription.options & 3 for subscription in session.subscriptions.values()):
                self.counters.slow_disconnects += 1
                if session.connection is not None:
                    session.connection.disconnect(ReasonCode.QUOTA_EXCEEDED, "too slow: fell behind what is kept in order")
                return []
            self.counters.publish_dropped += missed
        entries: list[InboxEntry] = []
        size = 0
        while len(entries) < self.limits.page_entries and size < self.limits.page_bytes:
            arrivals = log.after(after, _AT_ONCE)
            if not arrivals:
                break
            after = arrivals[-1][0]
            stored = {message.id: message for message in await self.reader.read_messages([id_ for _, id_ in arrivals])}
            for number, id_ in arrivals:
                if id_ in stored:
                    entries.append(InboxEntry(number, stored[id_]))
                    size += len(stored[id_].payload)
        return entries

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
            self.touch_shared_group(session)

    def pump_shared_groups(self, session: Session) -> None:
        """The session has room for more messages of its groups."""
        for filter_ in session.shared_filters:
            group = self.shared_groups.find(filter_)
            if group is not None:
                group.has_room(session)

    def touch_shared_group(self, reader: Session | SharedGroup) -> None:
        """The same for a shared subscription group."""
        self._dirty.add(reader)
        if self._saver is None:
            self._saver = asyncio.create_task(self._save_later(), name="offset saver")

    async def _save_later(self) -> None:
        try:
            while self._dirty:
                started = time.monotonic()
                dirty, self._dirty = self._dirty, set()
                for reader in dirty:
                    self._save_any(reader)
                self._save_some_idle()
                await asyncio.sleep(max(0.0, 0.9 - (time.monotonic() - started)))
        finally:
            self._saver = None

    def _save_some_idle(self) -> None:
        """Store how far some devices have come that are due nothing: their offsets would hold retention back after a restart.

        In turn, and only where it saves reading a page: it costs a write, and nothing depends on it.
        """
        if not self._unsaved:
            self._unsaved = [outbound for inbox in self._inboxes.values() for outbound in inbox.connected.values()]
        for outbound in self._unsaved[-_IDLE_AT_ONCE:]:
            if not outbound.closed and outbound.idle >= self.limits.page_entries:
                self.save(outbound.session)
        del self._unsaved[-_IDLE_AT_ONCE:]

    def _save_any(self, reader: Session | SharedGroup) -> None:
        if isinstance(reader, Session):
            self.save(reader)
        else:
            reader.save()

    def save(self, session: Session) -> SaveProgress:
        """Store the session's progress with the next group; calls before that share one write."""
        self._dirty.discard(session)
        step = session.saving
        if not isinstance(step, SaveProgress):
            step = session.saving = SaveProgress(session, self.watchers)
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
                if outbound.idle:
                    self.save(outbound.session)

    def close(self) -> None:
        """Stop the task that stores offsets."""
        if self._saver is not None:
            self._saver.cancel()
            self._saver = None

    async def persist(self, client_id: str, read: Callable[[], Awaitable[T]]) -> T:
        """Read for a device, again and again for as long as storage is away. Few reads run at a time.

        What is damaged is not passed over: the device waits until somebody has mended it.
        """
        delay, told = 0.1, ""
        while True:
            try:
                async with self.reads:
                    return await read()
            except StorageError as error:
                damaged = isinstance(error, StorageUnusable)
                if str(error) != told:
                    told = str(error)
                    log.log(logging.ERROR if damaged else logging.WARNING, "cannot read for %s: %s", client_id, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 60.0 if damaged else 2.0)


def _readers_of(found: Match[Session | SharedGroup], inbox: str) -> list[Session | SharedGroup]:
    """Of an inbox, the subscribers that are here. None of an inbox that did not match: a hook has put it there, or the message
    is stored already, with the recipients that it had on another node."""
    return found.readers()[found.recipients.index(inbox)] if inbox in found.recipients else []


class SaveProgress(Step):
    """Stores a session's progress, and then calls whoever waits for it to be durable."""

    __slots__ = ("_session", "_watchers", "then")

    def __init__(self, session: Session, watchers: Sequence[Callable[[Sequence[Operation]], None]] = ()) -> None:
        self._session = session
        self._watchers = watchers
        self.then: list[SaveWaiter] = []

    def apply(self) -> list[Operation]:
        """What is stored is the state at this place in the order."""
        session = self._session
        session.saving = None
        if session.ended or session.unopened:
            return []
        operations = session.saved()
        for watcher in self._watchers:
            watcher(operations)
        return operations

    def done(self) -> None:
        """Go on with what had to be durable first."""
        for waiter in self.then:
            waiter.progress_saved()


class SaveWaiter(Protocol):
    """Whoever may only go on once a session's progress is durable."""

    def progress_saved(self) -> None: ...
