"""Retained messages: the last of each topic, found by filter as comparing every topic would."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.packets.topics import matches
from broker.routing.retained import Retained
from storage.records import Append, Message
from tests.core.strategies import filters, names

outcomes = st.sampled_from(["", "refused", "repeat"])


class RetainedAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.retained = Retained()
        self.held: dict[str, Message] = {}
        self.last_id = 0

    @rule(topic=names, expires=st.sampled_from([0, 0, 5, 10]))
    def put(self, topic: str, expires: int) -> None:
        self.last_id += 1
        message = Message(self.last_id, topic, "u/a", "d", 0, 1, b"x", True, expires)
        self.retained.put(message)
        self.held[topic] = message

    @rule(now=st.integers(1, 12), limit=st.integers(1, 3))
    def expire(self, now: int, limit: int) -> None:
        """The first to expire go first; those that were replaced are passed over."""
        wanted = sorted((m for m in self.held.values() if 0 < m.expires <= now), key=lambda m: (m.expires, m.id))[:limit]
        assert self.retained.expire(now, limit) == wanted
        for message in wanted:
            del self.held[message.topic]
        assert len(self.retained._expiring) <= 2 * self.retained.count + 66 + len(wanted)

    @rule(topic=names)
    def put_empty(self, topic: str) -> None:
        self.retained.put(Message(1, topic, "u/a", "d", 0, 1, b"", True))
        self.held.pop(topic, None)

    @rule(
        appends=st.lists(st.tuples(names, st.sampled_from(["", "refused", "repeat"]), st.sampled_from([b"", b"x"]))),
        name=filters,
    )
    def group(self, appends: list[tuple[str, str, bytes]], name: str) -> None:
        """Until it is decided, a group changes nothing, and who would find one of its messages hears so."""
        accepted = []
        for topic, outcome, payload in appends:
            self.last_id += 1
            append = Append(Message(self.last_id, topic, "u/a", "d", 0, 1, payload, True), retain=True)
            self.retained.expect(append)
            append.error = ValueError() if outcome == "refused" else None
            append.original = (1, 1) if outcome == "repeat" else None
            if not outcome:
                accepted.append(append.message)
        assert self.retained.undecided(name) == any(matches(name, topic) for topic, _, _ in appends)
        self.all_of_them()
        assert self.retained.decide() == accepted
        assert not self.retained.undecided(name)
        for message in accepted:
            self.held.pop(message.topic, None)
            if message.payload:
                self.held[message.topic] = message

    @rule(name=filters, now=st.integers(1, 12))
    def match(self, name: str, now: int) -> None:
        wanted = [m for m in self.held.values() if matches(name, m.topic) and (not m.expires or m.expires > now)]
        assert self.retained.match(name, now) == sorted(wanted, key=lambda m: m.id)

    @rule(topic=names)
    def get(self, topic: str) -> None:
        assert self.retained.get(topic) is self.held.get(topic)

    @invariant()
    def all_of_them(self) -> None:
        assert self.retained.count == len(self.held)
        assert {m.topic: m for m in self.retained} == self.held

    def teardown(self) -> None:
        for topic in self.held:
            self.retained.put(Message(0, topic, "u/a", "d", 0, 1, b"", True))
        assert not self.retained._held._root.children, "branches without messages are left behind"


TestRetained = RetainedAgainstDict.TestCase
TestRetained.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
