"""The recent entries of a connected user's inbox: without gaps, up to the head, and few (laws 2 and 5)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.delivery.delivery import Inbox
from storage.records import InboxEntry, Message


class Reader:
    """A device that has looked at the entries up to one."""

    def __init__(self, looked_at: int) -> None:
        self.looked_at = looked_at

    def pump(self) -> None:
        """Nothing is written here."""


class InboxMachine(RuleBasedStateMachine):
    @initialize(head=st.integers(0, 3), limit=st.integers(1, 5))
    def start(self, head: int, limit: int) -> None:
        self.limit = limit
        self.inbox = Inbox("u/a", head)
        self.bytes = 0

    @rule(step=st.sampled_from([1, 1, 1, 1, 0, -1, 2, 5]), size=st.integers(0, 9), pruned=st.booleans())
    def push(self, step: int, size: int, pruned: bool) -> None:
        """Mostly the next entry; or one that was known, or one behind a hole."""
        seq = self.inbox.head + step
        message = None if pruned else Message(seq, "t", "u/a", "d", 0, 1, bytes(size))
        before = self.inbox.head
        self.bytes += self.inbox.push(InboxEntry(seq, message), self.limit)
        assert self.inbox.head == max(before, seq)

    @rule(behind=st.integers(0, 6))
    def connect(self, behind: int) -> None:
        self.inbox.feeds.append(Reader(max(0, self.inbox.head - behind)))

    @precondition(lambda self: self.inbox.feeds)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.inbox.feeds))
        assert isinstance(reader, Reader)
        reader.looked_at = data.draw(st.integers(reader.looked_at, max(reader.looked_at, self.inbox.head)))

    @rule()
    def trim(self) -> None:
        lowest = min((reader.looked_at for reader in self.inbox.feeds), default=self.inbox.head)
        needed = [entry.seq for entry in self.inbox.recent if entry.seq > lowest]
        self.bytes -= self.inbox.trim()
        assert [entry.seq for entry in self.inbox.recent] == needed

    @rule()
    def clear(self) -> None:
        self.bytes -= self.inbox.clear()
        assert not self.inbox.recent

    @invariant()
    def recent_ends_at_the_head_without_gaps(self) -> None:
        recent = [entry.seq for entry in self.inbox.recent]
        assert recent == list(range(self.inbox.head - len(recent) + 1, self.inbox.head + 1))

    @invariant()
    def it_is_bounded_and_counted(self) -> None:
        assert len(self.inbox.recent) <= self.limit
        size = sum(len(entry.message.payload) for entry in self.inbox.recent if entry.message is not None)
        assert self.inbox.recent_bytes == self.bytes == size

    @invariant()
    def an_entry_is_found_by_its_sequence_or_not_at_all(self) -> None:
        there = {entry.seq: entry for entry in self.inbox.recent}
        for seq in range(self.inbox.head + 3):
            assert self.inbox.find(seq) is there.get(seq)


TestInbox = InboxMachine.TestCase
TestInbox.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
