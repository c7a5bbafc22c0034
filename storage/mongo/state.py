"""What a storage holds in memory of one database, shared by its readers and its writer.

Others write too: what is remembered of a timeline's end is a guess, which an insert finds wrong. Of devices only those are
remembered whose connection this node has, and each write of one names the revision that it saw.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from storage.mongo.clock import DatabaseClock
from storage.mongo.codec import Kept
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Collections, Database, Raw
from storage.mongo.turns import Turns
from storage.mongo.view import Head
from storage.records import DeviceKey

K = TypeVar("K")
V = TypeVar("V")
HEADS = 200_000
DEVICES = 50_000
_CLOCK_HOLDS = 60.0


class Recent(Generic[K, V]):
    """A dictionary of the entries that were set last, at most twice ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[K, V] = {}
        self._earlier: dict[K, V] = {}

    def __bool__(self) -> bool:
        return bool(self._entries or self._earlier)

    def get(self, key: K) -> V | None:
        found = self._entries.get(key)
        return found if found is not None else self._earlier.get(key)

    def update(self, entries: Mapping[K, V]) -> None:
        """Set these."""
        self._entries.update(entries)
        if len(self._entries) >= self._limit:
            self.age()

    def age(self) -> None:
        """What was not set since the last time is forgotten."""
        self._earlier, self._entries = self._entries, {}

    def forget(self, keys: Iterable[K]) -> None:
        for key in keys:
            self._entries.pop(key, None)
            self._earlier.pop(key, None)


@dataclass(slots=True)
class State:
    """``token``: that of the node; 0 of one that only reads. ``last_id``: the highest id that this node has committed."""

    collections: Collections
    admin: Database
    """The server's own: the driver makes and checks another one for whoever asks it, which takes as long as five messages."""
    database_clock: DatabaseClock
    token: int = 0
    number: int | None = None
    """What is in the ids of its messages."""
    in_turn: bool = False
    """Whether the server takes writes to several collections by one command: MongoDB 8 does."""
    last_id: int = 0
    clock: int = 0
    topics: Recent[str, Head] = field(default_factory=lambda: Recent(HEADS))
    inboxes: Recent[str, int] = field(default_factory=lambda: Recent(HEADS))
    contended: Recent[str, Turns] = field(default_factory=lambda: Recent(HEADS))
    """Inboxes in which this node met another one a moment ago, which take turns."""
    devices: Recent[DeviceKey, Kept] = field(default_factory=lambda: Recent(DEVICES))
    pruned_topics: dict[str, int] = field(default_factory=dict)
    """Floors of removals under way: what is left below is not read any more."""
    pruned_inboxes: dict[str, int] = field(default_factory=dict)
    sweep_at: float = 0.0
    """When the marks of what is gone are looked at next."""
    _asked: float = float("-inf")

    async def now(self) -> int:
        """The database's clock, ms. It is asked once a minute."""
        if time.monotonic() - self._asked > _CLOCK_HOLDS:
            await self.database_clock.read()
            self._asked = time.monotonic()
        return self.database_clock.estimate()

    @staticmethod
    async def pause(attempt: int) -> None:
        """Let others go first, for longer each time: several that look at once, and write at once, are in each other's way."""
        await asyncio.sleep(random.random() * min(0.003 * 2**attempt, 0.2))

    async def last_entry(self, collection: Collection, name: str, value: str) -> Raw | None:
        """The newest entry of a timeline."""
        with storage_errors():
            fields = {"seq": 1, "time": 1, "mid": 1, "target": 1, "turns": 1}
            return await collection.find_one({name: {"$eq": value}}, fields, sort=[("seq", -1)])

    async def first_entry(self, collection: Collection, name: str, value: str, above: int = 0) -> Raw | None:
        """The oldest entry of a timeline with a sequence over ``above``."""
        with storage_errors():
            return await collection.find_one(
                {name: {"$eq": value}, "seq": {"$gt": above}}, {"seq": 1, "time": 1}, sort=[("seq", 1)]
            )

    async def topic_ends(self, topic: str) -> tuple[int, Head]:
        """A conversation's floor, and its last entry."""
        return await self._ends(self.collections.store, self.collections.conversations, "topic", topic)

    async def inbox_ends(self, user: str) -> tuple[int, Head]:
        """An inbox's floor, and its last entry."""
        return await self._ends(self.collections.sync, self.collections.users, "user", user)

    async def _ends(self, entries: Collection, registry: Collection, name: str, value: str) -> tuple[int, Head]:
        last = await self.last_entry(entries, name, value)
        with storage_errors():
            floor = await registry.find_one({"_id": value})
        return floor["floor"] if floor else 0, head_of(last, floor)


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
