"""Retained messages: the last of each topic, found by filter as comparing every topic would, however few memory may hold.

The storage is the one in memory, whose answers come a few at a time, so that anything may happen between two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.packets.topics import matches
from broker.retained import Reading, Retained, StoredRetained
from storage.memory.retained import Retained as Stored
from storage.records import Append, Message
from tests.core.strategies import filters, names
from tests.support.seeds import examples

outcomes = st.sampled_from(["", "refused", "repeat"])


@coroutine
def others_go_on() -> Generator[None]:
    yield


class Storage:
    """Answers with two messages at most, and lets others go on before and after."""

    def __init__(self) -> None:
        self.stored = Stored()

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        await others_go_on()
        page = self.stored.page(prefix, after, min(limit, 2), max_bytes)
        await others_go_on()
        return page

    async def retained_count(self) -> int:
        return self.stored.count

    async def retained_expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        return self.stored.expired(now, limit)


class Subscribing:
    """A SUBSCRIBE on its way to its place."""

    def __init__(self, retained: Retained, storage: Storage, name: str) -> None:
        self.retained = retained
        self.name = name
        self.reading: Reading = retained.open([name])
        self._asking: Coroutine[Any, Any, bool] = StoredRetained(retained, storage, asyncio.Event()).read(
            self.reading, lambda: True
        )
        self.read = False

    def go_on(self, steps: int) -> None:
        try:
            for _ in range(steps if not self.read else 0):
                self._asking.send(None)
        except StopIteration:
            self.read = True

    def place(self, now: int) -> list[Message]:
        """What it finds there."""
        while not self.read:
            self.go_on(100)
        found = self.retained.match(self.name, now, self.reading)
        self.retained.close(self.reading)
        return found


class RetainedAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.storage = Storage()
        self.held: dict[str, Message] = {}
        self.last_id = 0
        self.now = 1
        self.under_way: list[Subscribing] = []

    @initialize(before=st.lists(names, max_size=6), limit=st.sampled_from([0, 1500, 4000, 1 << 30]))
    def load(self, before: list[str], limit: int) -> None:
        for topic in before:
            self.put(topic, 0, b"x")
        self.retained = Retained(limit)
        self.limit = limit
        loading = StoredRetained(self.retained, self.storage, asyncio.Event()).load()
        try:
            while True:
                loading.send(None)
        except StopIteration:
            pass
        self.all_of_them()

    def put(self, topic: str, expires: int, payload: bytes) -> Message:
        """It is durable."""
        self.last_id += 1
        message = Message(self.last_id, topic, "u/a", "d", 0, 1, payload, True, expires)
        self.storage.stored.put(message)
        self.held.pop(topic, None)
        if payload:
            self.held[topic] = message
        return message

    @rule(topic=names, expires=st.sampled_from([0, 0, 5, 10]), payload=st.sampled_from([b"", b"x"]))
    def publish(self, topic: str, expires: int, payload: bytes) -> None:
        self.retained.put(self.put(topic, expires, payload))

    @rule(later=st.integers(0, 3), limit=st.integers(1, 3))
    def expire(self, later: int, limit: int) -> None:
        self.now += later
        due = self.storage.stored.expired(self.now, limit)
        for topic, message_id in due:
            self.retained.forget(topic, message_id)
            self.retained.forget(topic, message_id - 1)
        for topic, message_id in due:
            self.storage.stored.drop(topic, message_id)
            del self.held[topic]

    @rule(appends=st.lists(st.tuples(names, outcomes, st.sampled_from([b"", b"x"]))), name=filters, steps=st.integers(0, 5))
    def group(self, appends: list[tuple[str, str, bytes]], name: str, steps: int) -> None:
        """Until it is decided, a group changes nothing, and who would find one of its messages hears so."""
        accepted, expected = [], []
        for topic, outcome, payload in appends:
            self.last_id += 1
            append = Append(Message(self.last_id, topic, "u/a", "d", 0, 1, payload, True), retain=True)
            self.retained.expect(append)
            append.error = ValueError() if outcome == "refused" else None
            append.original = (1, 1) if outcome == "repeat" else None
            expected.append(append)
        assert self.retained.undecided(name) == any(matches(name, topic) for topic, _, _ in appends)
        self.all_of_them()
        for append in expected:
            if append.error is None and append.original is None:  # durable, and not decided
                accepted.append(append.message)
                self.storage.stored.put(append.message)
                self.held.pop(append.message.topic, None)
                if append.message.payload:
                    self.held[append.message.topic] = append.message
        for subscribing in self.under_way:
            subscribing.go_on(steps)
        assert self.retained.decide() == accepted
        assert not self.retained.undecided(name)

    @rule(name=filters)
    def subscribe(self, name: str) -> None:
        self.under_way.append(Subscribing(self.retained, self.storage, name))

    @rule(steps=st.integers(1, 5))
    def read(self, steps: int) -> None:
        for subscribing in self.under_way:
            subscribing.go_on(steps)

    @rule(which=st.integers(0, 3))
    def place(self, which: int) -> None:
        """A subscription finds what is retained at its place, whenever it was read."""
        if self.under_way:
            subscribing = self.under_way.pop(which % len(self.under_way))
            wanted = [m for m in self.held.values() if matches(subscribing.name, m.topic)]
            wanted = [m for m in wanted if not m.expires or m.expires > self.now]
            assert subscribing.place(self.now) == sorted(wanted, key=lambda m: m.id)

    @rule(topic=names)
    def get(self, topic: str) -> None:
        found = self.retained.get(topic)
        assert found is self.held.get(topic) or (found is None and not self.retained.whole)

    @invariant()
    def all_of_them(self) -> None:
        in_memory = {m.topic: m for m in self.retained}
        if self.retained.whole:
            assert in_memory == self.held
            assert self.retained.count == len(self.held)
        else:
            assert in_memory.items() <= self.held.items()
        if not self.under_way:
            assert self.retained.whole or self.retained._bytes <= self.limit
            assert self.retained._bytes <= self.limit

    def teardown(self) -> None:
        if not hasattr(self, "retained"):
            return
        for subscribing in self.under_way:
            subscribing.place(self.now)
        for topic in list(self.held):
            self.publish(topic, 0, b"")
        if self.retained.whole:
            assert not self.retained._topics._root.children, "branches without messages are left behind"
        assert self.retained._bytes == sum(1000 + len(m.payload) for m in self.retained._stored.values())


TestRetained = RetainedAgainstDict.TestCase
TestRetained.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


def test_what_storage_has_not_stays_in_memory() -> None:
    """The broker's own topics have no id."""
    retained = Retained(0)
    own = Message(0, "$SYS/a", "", "", 0, 0, b"x", True)
    expiring = Message(0, "$SYS/b", "", "", 0, 0, b"x", True, 10)
    retained.put(own)
    retained.put(expiring)
    for number in range(1, 10):
        retained.put(Message(number, f"t/{number}", "u/a", "d", 0, 1, b"x", True))
    assert not retained.whole
    assert list(retained) == [own, expiring]
    assert {m.topic for m in retained.match("$SYS/#", 5)} == {"$SYS/a", "$SYS/b"}
    assert not retained.elsewhere(["$SYS/a"])
    retained.counted(9)
    assert retained.count == 11
    assert retained.unstored_expired(9) == []
    assert retained.unstored_expired(10) == ["$SYS/b"]
    retained.forget_unstored("$SYS/b")
    assert retained.match("$SYS/#", 5) == [own]
    retained.put(Message(0, "$SYS/a", "", "", 0, 0, b"", True))
    assert retained.match("$SYS/#", 5) == []
