"""`memory://`: a bounded storage that keeps nothing over a restart.

For those who say so, and a reference for the other backends. It keeps the newest messages: past ``max_messages`` or
``max_bytes`` the oldest leave their conversation and every inbox, so that the first kept sequences move. Devices, retained
messages and the heads of inboxes are kept whole; a conversation that has been empty for ``max_messages`` messages forgets its
head and starts at 1 again.

Over 300 lines: each method of the interface is a few lines over the same lists.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from storage import rules
from storage.cluster import Cluster
from storage.errors import MessageRefused, Superseded
from storage.interface import NEAR, Due, Newest, Pointer, Subscribed, TailPage, page_of_ids
from storage.memory.retained import Retained
from storage.memory.state import MemoryState
from storage.records import (
    Announce,
    Append,
    CloseSession,
    Device,
    DeviceKey,
    DropRetained,
    InboxEntry,
    Message,
    OpenSession,
    Operation,
    Progress,
    Release,
    Subscribe,
    Unsubscribe,
)

OVERHEAD = 512
"""Bytes counted for a message beside its payload and properties."""
ENTRY_OVERHEAD = 100
"""Bytes counted for an inbox entry."""

T = TypeVar("T")


class _Timeline(Generic[T]):
    """Consecutive items; the oldest leave. Item of sequence n is ``items[gone + n - floor - 1]``."""

    __slots__ = ("floor", "gone", "items", "time")

    def __init__(self) -> None:
        self.floor = 0  # the last sequence that was removed
        self.gone = 0  # items at the start of the list that are already removed
        self.items: list[T | None] = []
        self.time = 0

    @property
    def head(self) -> int:
        return self.floor + len(self.items) - self.gone

    def append(self, item: T) -> int:
        self.items.append(item)
        return self.head

    def between(self, after: int, before: int) -> tuple[int, int]:
        """Indices of the items with ``after`` < seq < ``before`` (0: no upper bound)."""
        shift = self.gone - self.floor - 1
        low = max(after + 1, self.floor + 1)
        high = min(before, self.head + 1) if before else self.head + 1
        return low + shift, max(low, high) + shift

    def replace(self, seq: int, item: T) -> None:
        """Put another item in the place of one that is kept."""
        self.items[self.gone + seq - self.floor - 1] = item

    def remove(self, through: int) -> list[T]:
        """Remove the items up to a sequence; amortised constant time per item."""
        count = max(0, min(through, self.head) - self.floor)
        first = self.gone
        removed = [item for item in self.items[first : first + count] if item is not None]
        self.items[first : first + count] = [None] * count
        self.gone += count
        self.floor += count
        if self.gone > 32 and self.gone * 2 > len(self.items):
            del self.items[: self.gone]
            self.gone = 0
        return removed


class _Stored(NamedTuple):
    """One thing that was stored, to be evicted in this order: a message, or an entry of a retained one."""

    topic: str
    seq: int
    size: int
    entries: Sequence[tuple[str, int]]


def _size(message: Message) -> int:
    return len(message.payload) + len(message.properties) + OVERHEAD


class MemoryStorage:
    """A `storage.interface.Storage` in this process's memory."""

    def __init__(self, max_messages: int = 100_000, max_bytes: int = 256 << 20) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._last_id = 0
        self._conversations: dict[str, _Timeline[Message]] = {}
        self._empty: OrderedDict[str, None] = OrderedDict()  # conversations without messages, longest empty first
        self._inboxes: dict[str, _Timeline[tuple[int, str]]] = {}
        self._messages: dict[int, Message] = {}
        self._tail: _Timeline[Message] = _Timeline()  # in commit order; pruned ones stay until they are evicted
        self._log: deque[_Stored] = deque()
        self._retained = Retained()
        self._devices: dict[DeviceKey, Device] = {}
        self._once: OrderedDict[tuple[str, str], rules.Once] = OrderedDict()
        self._apply: dict[type, Callable[[Any], None]] = {
            OpenSession: self._open_session,
            CloseSession: self._close_session,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Progress: self._progress,
            Release: self._release,
            DropRetained: self._drop_retained,
            Announce: lambda op: None,
        }
        self._state = MemoryState(self)
        self._apply |= self._state.apply
        self.memberships = self._state.memberships
        self.takes_part = self._state.takes_part
        self.read_position = self._state.read_position
        self.participants = self._state.participants
        self.read_positions = self._state.read_positions
        self.expired_between = self._state.expired_between
        self.sent_between = self._state.sent_between
        self.token = self._state.token
        self.tokens = self._state.tokens
        self.jobs = self._state.jobs
        self.settings = self._state.settings
        self.row = self._state.row
        self.rows = self._state.rows
        self.data_epoch = self._state.data_epoch

    async def parts(self, table: str) -> AsyncIterator[list[str]]:
        """See `storage.interface.Rows`."""
        async for page in self._state.parts(table):
            yield page

    @property
    def cluster(self) -> Cluster | None:
        """None: see `storage.interface.Storage`."""
        return None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; what is held stays readable."""

    # --- Committer -------------------------------------------------------------------------------------------------

    async def commit(self, group: Sequence[Operation]) -> None:
        """Apply a group; never fails as a whole."""
        self.apply_group(group)

    def apply_group(self, group: Sequence[Operation]) -> None:
        """The same, at once."""
        for op in group:
            self._apply_one(op)
        self._evict()

    def _apply_one(self, op: Operation) -> None:
        if op.error is not None:
            return
        try:
            if isinstance(op, Append):
                self._append(op)
            else:
                self._apply[type(op)](op)
        except (MessageRefused, Superseded) as error:
            op.error = error

    def _append(self, op: Append) -> None:
        message = op.message
        rules.refuse_unstored(op)
        if _size(message) > self._max_bytes:
            raise MessageRefused(f"message of {len(message.payload)} bytes: memory storage holds {self._max_bytes} in all")
        known = message.id in self._messages or (op.idempotency_key and self._repeated(op))
        if op.received is not None:
            self._receive(op)
        if known:
            return
        if op.store:
            self._store(op)
        self._committed_id(message.id)
        if op.retain:
            self._retained.put(message)
        for recalled in op.recalls:
            self._recall(recalled, message)
        if op.idempotency_key:
            self._remember(op)

    def _committed_id(self, message_id: int) -> None:
        self._last_id = max(self._last_id, message_id)

    def _receive(self, op: Append) -> None:
        if op.received is not None and (device := self._devices.get(op.received[0])) is not None:
            device.received.add(op.received[1])

    def _store(self, op: Append) -> None:
        entries = self._keep(op)
        op.inbox_seqs = [self._inbox(user).append((op.message.id, "")) for user in op.recipients]
        entries.extend(zip(op.recipients, op.inbox_seqs, strict=True))

    def _keep(self, op: Append) -> list[tuple[str, int]]:
        """Put a message into its conversation. The list is to be filled with its inbox entries."""
        message = op.message
        timeline = self._conversations.get(message.topic)
        if timeline is None:
            timeline = self._conversations[message.topic] = _Timeline()
        self._empty.pop(message.topic, None)
        message.time = timeline.time = max(message.time, timeline.time)
        message.seq = timeline.append(message)
        self._messages[message.id] = message
        self._tail.append(message)
        entries: list[tuple[str, int]] = []
        size = _size(message) + ENTRY_OVERHEAD * len(op.recipients)
        self._log.append(_Stored(message.topic, message.seq, size, entries))
        self._bytes += size
        return entries

    def _recall(self, message_id: int, by: Message) -> None:
        """Put a message without content in its place. The old one may be on its way to somebody, and stays as it is."""
        kept = self._retained.by_id(message_id)
        if kept is not None and kept.topic == by.topic:
            self._retained.drop(by.topic, message_id)
        old = self._messages.get(message_id)
        if old is None or old.topic != by.topic or old.recalled:
            return
        bare = self._messages[message_id] = old.without_content(by.id)
        timeline = self._conversations[by.topic]
        timeline.replace(old.seq, bare)
        place = bisect_left(self._tail.items, message_id, self._tail.gone, key=lambda m: m.id if m is not None else 0)
        if place < len(self._tail.items) and self._tail.items[place] is old:
            self._tail.items[place] = bare

    def _inbox(self, user: str) -> _Timeline[tuple[int, str]]:
        inbox = self._inboxes.get(user)
        if inbox is None:
            inbox = self._inboxes[user] = _Timeline()
        return inbox

    def _drop_retained(self, op: DropRetained) -> None:
        for topic, message_id in op.messages:
            self._retained.drop(topic, message_id)

    def _repeated(self, op: Append) -> bool:
        op.original = rules.repeated(op, self._once.get((op.message.user, op.idempotency_key)))
        return op.original is not None

    def _remember(self, op: Append) -> None:
        key = (op.message.user, op.idempotency_key)
        self._once.pop(key, None)
        self._once[key] = rules.used_now(op, op.message.seq)
        now = rules.asked_at(op)
        while self._once and (len(self._once) > self._max_messages or next(iter(self._once.values())).until <= now):
            self._once.popitem(last=False)

    def _head(self, user: str) -> int:
        inbox = self._inboxes.get(user)
        return inbox.head if inbox else 0

    def _open_session(self, op: OpenSession) -> None:
        start = rules.Start.parse(op.start)
        device = self._devices.get(op.device)
        op.head = self._head(op.device.user)
        if device is not None and rules.is_older(op.epoch, device.epoch):
            op.offset = device.offset
            return
        if device is None or op.clean:
            device = self._devices[op.device] = rules.new_device(op, self._start(op.device.user, start))
            op.created = True
        else:
            op.created = rules.made_by(device.epoch, device.created_at, op)
        rules.begin(device, op)
        op.offset = device.offset

    def _start(self, user: str, start: rules.Start) -> int:
        inbox = self._inbox(user)

        def before(time: int) -> int:
            low, high = inbox.between(0, 0)
            return bisect_left(inbox.items, time, low, high, key=self._entry_time) - inbox.gone + inbox.floor

        return start.offset(self._head(user), lambda: inbox.floor, before)

    def _entry_time(self, entry: tuple[int, str] | None) -> int:
        message = self._find(entry[0]) if entry else None
        return message.time if message else 0

    def _current(self, key: DeviceKey, epoch: int) -> Device | None:
        return rules.current(self._devices.get(key), epoch)

    def _close_session(self, op: CloseSession) -> None:
        device = self._current(op.device, op.epoch)
        if device is None:
            return
        if op.delete:
            del self._devices[op.device]
            return
        rules.end(device, op)

    def _subscribe(self, op: Subscribe) -> None:
        device = self._current(op.device, op.epoch)
        head = self._head(op.device.user)
        for new in op.subscriptions:
            old = device.subscriptions.get(new.filter) if device else None
            new.since = rules.since(new, old.since if old else None, head)
            if device:
                device.subscriptions[new.filter] = new.copy()
        if device is None or not op.retained:
            return
        user, target = op.device
        inbox = self._inbox(user)
        op.retained_seqs = [inbox.append((message.id, target)) for message in op.retained]
        self._log.extend(_Stored("", 0, ENTRY_OVERHEAD, ((user, seq),)) for seq in op.retained_seqs)
        self._bytes += ENTRY_OVERHEAD * len(op.retained)

    def _unsubscribe(self, op: Unsubscribe) -> None:
        if (device := self._current(op.device, op.epoch)) is not None:
            for name in op.filters:
                device.subscriptions.pop(name, None)

    def _progress(self, op: Progress) -> None:
        if (device := self._current(op.device, op.epoch)) is not None:
            rules.advance(device, op)

    def _release(self, op: Release) -> None:
        if (device := self._devices.get(op.device)) is not None:
            device.received.discard(op.packet_id)

    # --- bounds ----------------------------------------------------------------------------------------------------

    def _evict(self) -> None:
        while len(self._log) > self._max_messages or self._bytes > self._max_bytes:
            oldest = self._log.popleft()
            self._bytes -= oldest.size
            if oldest.topic:
                self._tail.remove(self._tail.floor + 1)
                self._forget(oldest.topic, oldest.seq)
            for user, seq in oldest.entries:
                self._inboxes[user].remove(seq)
        while len(self._empty) > self._max_messages:
            self._conversations.pop(self._empty.popitem(last=False)[0])

    def _forget(self, topic: str, through: int) -> int:
        timeline = self._conversations.get(topic)
        if timeline is None:
            return 0
        removed = timeline.remove(through)
        for message in removed:
            del self._messages[message.id]
        if timeline.head == timeline.floor:
            self._empty[topic] = None
        return len(removed)

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`."""
        timeline = self._conversations.get(topic)
        return self._forget(topic, min(before_seq - 1, timeline.floor + limit)) if timeline else 0

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`."""
        inbox = self._inboxes.get(user)
        return len(inbox.remove(min(before_seq - 1, inbox.floor + limit))) if inbox else 0

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """See `storage.interface.Pruner`."""
        inbox = self._inboxes.get(user)
        if inbox is None:
            return []
        low, high = inbox.between(after, 0)
        items = inbox.items[low : min(high, low + limit)]
        found = (
            (seq, self._messages.get(item[0]) if item else None) for seq, item in enumerate(items, max(after, inbox.floor) + 1)
        )
        return [Pointer(seq, message.topic, message.seq) if message else Pointer(seq, "", 0) for seq, message in found]

    # --- reads -----------------------------------------------------------------------------------------------------

    def _find(self, message_id: int) -> Message | None:
        message = self._messages.get(message_id)
        if message is None:
            return self._retained.by_id(message_id)
        return message

    async def inbox_head(self, user: str) -> int:
        """See `storage.interface.InboxReader`."""
        return self._head(user)

    async def inbox_bounds(self, user: str) -> tuple[int, int]:
        """See `storage.interface.InboxReader`."""
        inbox = self._inboxes.get(user)
        return (inbox.floor + 1, inbox.head) if inbox else (1, 0)

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        """See `storage.interface.InboxReader`."""
        inbox = self._inboxes.get(user)
        if inbox is None:
            return []
        low, high = inbox.between(after, 0)
        items = enumerate(inbox.items[low : min(high, low + limit)], max(after, inbox.floor) + 1)
        entries = (InboxEntry(seq, self._find(item[0]), item[1]) for seq, item in items if item is not None)
        return rules.within(entries, max_bytes, lambda entry: len(entry.message.payload) if entry.message else 0)

    def bounds(self, topic: str) -> tuple[int, int]:
        """(first kept sequence, last sequence) of a topic."""
        timeline = self._conversations.get(topic)
        return (timeline.floor + 1, timeline.head) if timeline else (1, 0)

    def kept(self, topic: str, after: int) -> list[Message]:
        """A topic's messages with seq > ``after``."""
        timeline = self._conversations.get(topic)
        if timeline is None:
            return []
        low, high = timeline.between(after, 0)
        return [message for message in timeline.items[low:high] if message is not None]

    async def conversation_bounds(self, topic: str) -> tuple[int, int]:
        """See `storage.interface.ConversationReader`."""
        return self.bounds(topic)

    async def read_conversation(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int = 0,
        limit: int = 100,
        newest_first: bool = False,
        max_bytes: int = 1 << 20,
    ) -> list[Message]:
        """See `storage.interface.ConversationReader`."""
        timeline = self._conversations.get(topic)
        if timeline is None:
            return []
        low, high = timeline.between(after, before)
        page = (
            timeline.items[max(low, high - limit) : high][::-1]
            if newest_first
            else timeline.items[low : min(high, low + limit)]
        )
        return _within(page, max_bytes)

    async def newest(self, topics: Sequence[str]) -> list[Newest]:
        """See `storage.interface.ConversationReader`."""
        return [self._newest(topic) for topic in topics]

    def _newest(self, topic: str) -> Newest:
        timeline = self._conversations.get(topic)
        if timeline is None:
            return Newest(0, 0)
        low, high = timeline.between(0, 0)
        last = timeline.items[high - 1] if high > low else None
        return Newest(0, 0) if last is None else Newest(last.seq, last.time)

    async def sequence_at(self, topic: str, time: int) -> int:
        """See `storage.interface.ConversationReader`."""
        timeline = self._conversations.get(topic)
        if timeline is None:
            return 1
        low, high = timeline.between(0, 0)
        index = bisect_left(timeline.items, time, low, high, key=lambda message: message.time if message else 0)
        return index - timeline.gone + timeline.floor + 1

    async def read_message(self, message_id: int) -> Message | None:
        """See `storage.interface.ConversationReader`."""
        return self._messages.get(message_id)

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """See `storage.interface.ConversationReader`."""
        return [message for message_id in ids if (message := self._messages.get(message_id)) is not None]

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        return self._last_id

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.Tail`."""
        low, high = self._tail.between(0, 0)
        at = bisect_left(self._tail.items, after_id + 1, low, high, key=lambda message: message.id if message else 0)
        kept = (m for m in islice(self._tail.items, at, high) if m is not None and m.id in self._messages)
        return _within(islice(kept, limit), max_bytes)

    async def tails(self) -> dict[int, int]:
        """See `storage.interface.Tails`."""
        return {0: self._last_id}

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        """See `storage.interface.Tails`."""
        return page_of_ids([m for m in await self.read_tail(after, limit, max_bytes) if m.id <= through], through)

    async def device(self, key: DeviceKey) -> Device | None:
        """See `storage.interface.State`."""
        device = self._devices.get(key)
        return copied(device) if device else None

    async def devices(self) -> AsyncIterator[Device]:
        """See `storage.interface.State`."""
        for device in list(self._devices.values()):
            yield copied(device)

    async def device_count(self) -> int:
        """See `storage.interface.DeviceIndex`."""
        return len(self._devices)

    async def subscribed(self) -> AsyncIterator[list[Subscribed]]:
        """See `storage.interface.DeviceIndex`."""
        yield [Subscribed(*device.key, filter_) for device in self._devices.values() for filter_ in device.subscriptions]

    async def undated(self, now: int) -> AsyncIterator[list[Device]]:
        """See `storage.interface.DeviceIndex`."""
        yield [copied(device) for device in self._devices.values() if device.undated(now)]

    async def due(self, now: int, limit: int = 500) -> Due:
        """See `storage.interface.DeviceIndex`."""
        times = [(at, d.key) for d in self._devices.values() for at in (d.expires_at, d.will_at) if at]
        due = dict.fromkeys(key for at, key in sorted(times) if at <= now)
        return Due(list(islice(due, limit)), min((at for at, _ in times if at > now), default=0))

    async def devices_of(self, user: str, after: str = "", limit: int = 0) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        start = after.encode()
        named = [(key.client_id.encode(), device) for key, device in self._devices.items() if key.user == user]
        found = [device for name, device in sorted(named, key=lambda pair: pair[0]) if not start or name > start]
        return [copied(device) for device in (found[:limit] if limit else found)]

    async def devices_from(self, key: DeviceKey, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        found = nsmallest(limit, (one for one in self._devices if one >= key))
        return [copied(self._devices[one]) for one in found]

    async def devices_named(self, client_id: str, user: str, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        found = nsmallest(limit, (one for one in self._devices if one.client_id == client_id and one.user >= user))
        return [copied(self._devices[one]) for one in found]

    async def entries_of(self, message: Message, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        return [self._entry_of(message.id, user) for user in users]

    def _entry_of(self, message_id: int, user: str) -> int:
        """By halving: ids rise along an inbox, but for entries that are for one device."""
        inbox = self._inboxes.get(user)
        if inbox is None:
            return 0
        items, (first, end) = inbox.items, inbox.between(0, 0)

        def next_own(at: int) -> int:
            return next((k for k in range(at, end) if (item := items[k]) is not None and not item[1]), end)

        low, high = first, end
        while low < high:
            at = next_own((low + high) // 2)
            item = items[at] if at < high else None
            if item is not None and item[0] < message_id:
                low = at + 1
            else:
                high = (low + high) // 2
        near = (next_own(low), *range(max(first, low - NEAR), min(end, low + NEAR)))
        return next((k - first + inbox.floor + 1 for k in near if k < end and items[k] == (message_id, "")), 0)

    async def lowest_offset(self, user: str) -> int | None:
        """See `storage.interface.DeviceIndex`."""
        return min((device.offset for device in self._devices.values() if device.key.user == user), default=None)

    async def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]:
        """See `storage.interface.DeviceIndex`."""
        lowest: dict[str, int] = {}
        for device in self._devices.values():
            user = device.key.user
            lowest[user] = min(device.offset, lowest.get(user, device.offset))
        yield sorted(lowest.items(), key=lambda pair: pair[0].encode())

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.RetainedReader`."""
        return self._retained.page(prefix, after, limit, max_bytes)

    async def retained_count(self) -> int:
        """See `storage.interface.RetainedReader`."""
        return self._retained.count

    async def retained_expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        """See `storage.interface.RetainedReader`."""
        return self._retained.expired(now, limit)

    async def conversations(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        found = (name for name in self._conversations if name.startswith(prefix) and name > after)
        for topic in sorted(found, key=str.encode):
            if (timeline := self._conversations.get(topic)) is not None:  # it may be forgotten between two
                yield topic, timeline.floor + 1, timeline.head

    async def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        for user, inbox in sorted(self._inboxes.items(), key=lambda pair: pair[0].encode()):
            if inbox.head:
                yield user, inbox.floor + 1, inbox.head


def _within(page: Iterable[Message | None], max_bytes: int) -> list[Message]:
    kept = (message for message in page if message is not None)
    return rules.within(kept, max_bytes, lambda message: len(message.payload))


def copied(device: Device) -> Device:
    """A device of its own for who asked, as a database would give it."""
    return replace(
        device,
        inflight=list(device.inflight),
        subscriptions={name: subscription.copy() for name, subscription in device.subscriptions.items()},
        received=set(device.received),
    )
