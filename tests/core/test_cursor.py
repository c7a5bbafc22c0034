"""A cursor as a state machine: every due entry once and in order, whatever comes from memory and whatever from storage."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.sessions.cursor import Cursor, Head
from storage.records import InboxEntry, Message
from tests.support.seeds import examples


class CursorMachine(RuleBasedStateMachine):
    """``timeline`` is what storage has, by sequence: the entry, and whether it is due to the reader."""

    @initialize(length=st.integers(0, 6), behind=st.integers(0, 6))
    def start(self, length: int, behind: int) -> None:
        self.timeline: dict[int, tuple[InboxEntry, bool]] = {}
        self.under_way: list[tuple[InboxEntry, bool]] = []
        self.removed: dict[int, InboxEntry] = {}
        self.last = 0
        for _ in range(length):
            self.append(due=True, size=1)
        self.head = Head(self.last)
        self.cursor = Cursor(self.head, max(0, self.last - behind))
        self.taken = self.cursor.position
        """Everything due up to here was handed out."""
        self.read: tuple[list[InboxEntry], int, int] | None = None

    def append(self, *, due: bool, size: int) -> InboxEntry:
        self.last += 1
        entry = InboxEntry(self.last, Message(self.last, "t", "u/a", "d", 0, 1, bytes(size)))
        self.timeline[self.last] = entry, due
        return entry

    @precondition(lambda self: not self.under_way)
    @rule(group=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=4))
    def group_is_stored(self, group: list[tuple[bool, int]]) -> None:
        """From here on a page may hold its entries."""
        self.under_way = [(self.append(due=due, size=size), due) for due, size in group]

    @rule()
    def group_is_done(self) -> None:
        """Its entries that are due are pushed."""
        for entry, due in self.under_way:
            self.head.seq = entry.seq
            if due:
                self.cursor.push(entry)
        self.under_way = []

    @precondition(lambda self: not self.under_way)
    @rule()
    def stored_elsewhere(self) -> None:
        """An entry that no commit pushes, such as another writer's: all look into storage."""
        entry = self.append(due=True, size=1)
        self.cursor.fall_behind()
        self.head.seq = entry.seq

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            entry = self.cursor.peek()
            if entry is None:
                break
            # One that retention has removed may come all the same, from a page that was read before.
            assert entry is (self.timeline[entry.seq][0] if entry.seq in self.timeline else self.removed.get(entry.seq))
            due = [seq for seq, (_, due) in self.timeline.items() if due and self.taken < seq < entry.seq]
            assert due == [], "passed over"
            assert entry.seq > self.taken, "handed out again"
            assert entry.seq <= self.head.seq
            self.cursor.advance(entry)
            self.taken = entry.seq

    def read_now(self, limit: int = 3) -> None:
        if self.cursor.needs_page:
            after = self.cursor.position
            page = [entry for seq, (entry, _) in self.timeline.items() if seq > after][:limit]
            self.read = page, after, self.head.seq

    @precondition(lambda self: self.read is None)
    @rule(limit=st.integers(1, 4))
    def read_begins(self, limit: int) -> None:
        self.read_now(limit)

    @precondition(lambda self: self.read is not None)
    @rule()
    def read_ends(self) -> None:
        assert self.read is not None
        self.cursor.take_page(*self.read)
        self.read = None

    @rule()
    def too_much_waits(self) -> None:
        self.cursor.fall_behind()

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, self.head.seq))
        self.cursor.move(position)
        self.taken = position

    @rule(data=st.data())
    def retention(self, data: st.DataObject) -> None:
        """Removes what is before the cursor, or a stretch that nobody has read."""
        before = data.draw(st.integers(0, self.last))
        waiting = self.cursor.peek()
        for seq in [seq for seq in self.timeline if seq <= before and (waiting is None or seq != waiting.seq)]:
            if seq <= self.taken or (
                seq <= self.head.seq and not self.cursor.live and self.cursor.peek() is None and self.read is None
            ):
                self.removed[seq], _ = self.timeline.pop(seq)

    @invariant()
    def nothing_due_is_behind_the_position(self) -> None:
        position = self.cursor.position
        assert [seq for seq, (_, due) in self.timeline.items() if due and self.taken < seq <= position] == []

    @invariant()
    def what_waits_is_counted(self) -> None:
        cursor = self.cursor
        waiting = (cursor._pushed or [])[cursor._at :]
        assert cursor.waiting == len(waiting)
        assert cursor.bytes == sum(len(entry.message.payload) for entry in waiting if entry.message is not None)
        assert not (waiting and cursor._page)
        assert cursor.live or not waiting

    def teardown(self) -> None:
        """In the end it stands at the head, live, with all that was due handed out."""
        self.group_is_done()
        for _ in range(200):
            self.take(5)
            if self.cursor.peek() is None and not self.cursor.needs_page:
                break
            self.read_now()
            if self.read is not None:
                self.read_ends()
        assert self.cursor.live
        assert self.cursor.position == self.head.seq
        assert [seq for seq, (_, due) in self.timeline.items() if due and seq > self.taken] == []


TestCursor = CursorMachine.TestCase
TestCursor.settings = settings(max_examples=examples(300), stateful_step_count=40, deadline=None)


def test_a_page_that_reaches_into_the_group_under_way_ends_before_it() -> None:
    """The machine above meets this by chance."""
    one, two = (InboxEntry(seq, Message(seq, "t", "u/a", "d", 0, 1, b"")) for seq in (1, 2))
    cursor = Cursor(Head(1), 0)
    assert cursor.needs_page
    cursor.take_page([one, two], 0, 1)
    assert cursor.peek() is one
    cursor.advance(one)
    assert cursor.peek() is None
