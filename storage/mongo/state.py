"""What a storage holds in memory of one database, shared by its readers and its writer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from storage.mongo.codec import Kept
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Collections, Raw
from storage.mongo.plan import Plan
from storage.mongo.view import Head
from storage.mongo.watches import Watches
from storage.records import DeviceKey

K = TypeVar("K")
V = TypeVar("V")
HEADS = 200_000
DEVICES = 50_000


class Recent(Generic[K, V]):
    """A dictionary of the entries that were set last, at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def update(self, entries: Mapping[K, V]) -> None:
        """Set these; the oldest leave."""
        known = self._entries
        for key, value in entries.items():
            known.pop(key, None)
            known[key] = value
        for key in list(islice(known, max(0, len(known) - self._limit))):
            del known[key]

    def forget(self, keys: Iterable[K]) -> None:
        for key in keys:
            self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()


@dataclass(slots=True)
class State:
    """``plan`` is the group under way, from its first write until all of it is durable; ``before`` are the heads that its
    timelines had: nobody reads past them."""

    collections: Collections
    shared: bool = False
    serving: bool = True
    plan: Plan | None = None
    before_topics: Mapping[str, Head] = field(default_factory=dict)
    before_inboxes: Mapping[str, int] = field(default_factory=dict)
    last_id: int = 0
    clock: int = 0
    topics: Recent[str, Head] = field(default_factory=lambda: Recent(HEADS))
    inboxes: Recent[str, int] = field(default_factory=lambda: Recent(HEADS))
    devices: Recent[DeviceKey, Kept] = field(default_factory=lambda: Recent(DEVICES))
    pruned_topics: dict[str, int] = field(default_factory=dict)
    """Floors of removals under way: what is left below is not read any more."""
    pruned_inboxes: dict[str, int] = field(default_factory=dict)
    late: Watches = field(default_factory=Watches)

    async def last_entry(self, collection: Collection, name: str, value: str) -> Raw | None:
        """The newest entry of a timeline."""
        fields = {"seq": 1, "time": 1, "mid": 1, "v": 1}
        with storage_errors():
            last = await collection.find_one({name: {"$eq": value}}, fields, sort=[("seq", -1)])
        if last is not None and collection is self.collections.store:
            self.late.meets(last)
        return last

    async def first_entry(self, collection: Collection, name: str, value: str, above: int = 0) -> Raw | None:
        """The oldest entry of a timeline with a sequence over ``above``."""
        with storage_errors():
            return await collection.find_one(
                {name: {"$eq": value}, "seq": {"$gt": above}}, {"seq": 1, "time": 1}, sort=[("seq", 1)]
            )

    async def topic_head(self, topic: str) -> Head:
        """The last committed entry of a conversation."""
        before = self.topic_before(topic)
        if before is not None:
            return before
        if self.serving and not self.shared and (known := self.topics.get(topic)) is not None:
            return known
        last = await self.last_entry(self.collections.store, "topic", topic)
        with storage_errors():
            floor = await self.collections.conversations.find_one({"_id": topic})
        return self.topic_before(topic) or head_of(last, floor)

    async def inbox_head(self, user: str) -> int:
        """The last committed sequence of an inbox."""
        before = self.inbox_before(user)
        if before is not None:
            return before
        if self.serving and not self.shared and (known := self.inboxes.get(user)) is not None:
            return known
        last = await self.last_entry(self.collections.sync, "user", user)
        with storage_errors():
            floor = await self.collections.users.find_one({"_id": user})
        before = self.inbox_before(user)
        return head_of(last, floor).seq if before is None else before

    # A group may begin, and write, while a read is on its way: a reader asks these of what came back, never before alone.

    def topic_before(self, topic: str) -> Head | None:
        """Where a conversation ended before the group under way; None where that does not write to it."""
        return self.before_topics.get(topic) if self.plan is not None and not self.shared else None

    def inbox_before(self, user: str) -> int | None:
        """Where an inbox ended before the group under way; None where that does not write to it."""
        return self.before_inboxes.get(user) if self.plan is not None and not self.shared else None

    def is_hidden(self, document: Raw) -> bool:
        """Whether a message of the store is not to be seen yet: of the group under way, or one that came late."""
        return self.late.meets(document) or (self.plan is not None and document["mid"] in self.plan.mids)


def head_of(last: Raw | None, floor: Raw | None) -> Head:
    """A timeline's head, from its newest entry and its floor: retention may have removed every entry."""
    seq = max(last["seq"] if last else 0, floor["floor"] if floor else 0)
    return Head(seq, max(last["time"] if last else 0, floor["time"] if floor else 0))


def batches(items: Iterable[V], size: int) -> Iterator[list[V]]:
    """The items in lists of ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


async def first_at(head: int, first: int, times: Callable[[list[int]], Awaitable[Mapping[int, int]]], time: int) -> int:
    """The lowest sequence from ``first`` to ``head`` whose time is at least ``time``; head + 1 where there is none.

    ``times`` gives the times of some sequences. Halves sixteen-fold: six round trips for ten million entries.
    """
    low, high = first, head + 1  # the answer is in low..high
    while low < high:
        step = max(1, (high - low) // 16)
        probes = list(range(low, high, step))
        known = await times(probes)
        for probe in probes:
            if known.get(probe, -1) >= time:
                high = probe
                break
            low = probe + 1
    return low
