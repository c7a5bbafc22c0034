"""A cursor: how far a reader has looked along its timeline, and what memory has of what follows. No I/O.

The reader is a durable session on its user's inbox, a clean one on the tail of the store, or a shared subscription's group.

| state | what follows comes from | begins when | ends when |
|---|---|---|---|
| live | what commits pushed, which is all that is due | the cursor is at the head | more was pushed than memory may keep |
| behind | pages of storage | the cursor is before the head, and what was pushed is dropped | the pages have reached the head |

Rules kept here:

- Entries are handed out once and in order, across every change between memory and storage.
- A live cursor stands at the head, or right before the oldest entry that was pushed and not handed out. So it moves on with
  each commit, also with those that have nothing for its reader, and nothing is done for it.
- An entry above the head is not handed out, also where storage has it already: its group is not done, and a subscription
  in that group has no place yet.
"""

from __future__ import annotations

from storage.records import InboxEntry


class Head:
    """Where a timeline ends: the sequence of its last entry whose group is done."""

    __slots__ = ("seq",)

    def __init__(self, seq: int) -> None:
        self.seq = seq


class Cursor:
    """See the module. ``bytes`` are those of the payloads that were pushed and not handed out yet."""

    __slots__ = ("_at", "_page", "_position", "_pushed", "bytes", "counted", "head", "live", "saved")

    def __init__(self, head: Head, position: int) -> None:
        self.head = head
        self._position = position
        self.live = position >= head.seq
        # Lists and no deque, which takes 600 bytes while it is empty; and none where a connection never has any.
        self._pushed: list[InboxEntry] | None = None
        self._at = 0
        self._page: list[InboxEntry] | None = None
        self.bytes = 0
        self.counted = 0
        """Of these, what the sum over all cursors has."""
        self.saved = position
        """What storage knows of the position."""

    @property
    def position(self) -> int:
        """The highest entry that was looked at: nothing up to it is handed out any more."""
        if not self.live:
            return self._position
        if self._pushed:
            return max(self._position, self._pushed[self._at].seq - 1)
        return max(self._position, self.head.seq)

    @property
    def waiting(self) -> int:
        """How many entries were pushed and not handed out."""
        return 0 if self._pushed is None else len(self._pushed) - self._at

    def push(self, entry: InboxEntry) -> None:
        """A committed entry that is due, or may be; the head is there already."""
        if self.live and entry.seq > self._position:
            if self._pushed is None:
                self._pushed = []
            self._pushed.append(entry)
            if entry.message is not None:
                self.bytes += len(entry.message.payload)

    def peek(self) -> InboxEntry | None:
        """The next entry; None where there is none, or `needs_page`."""
        if self._pushed:
            return self._pushed[self._at]
        return self._page[-1] if self._page else None

    def advance(self, entry: InboxEntry) -> None:
        """The entry that `peek` gave was looked at."""
        self._position = entry.seq
        if self._page:
            self._page.pop()
            return
        if entry.message is not None:
            self.bytes -= len(entry.message.payload)
        pushed = self._pushed
        assert pushed is not None
        at = self._at + 1
        if at == len(pushed):
            pushed.clear()
            at = 0
        elif at >= 64:
            del pushed[:at]
            at = 0
        self._at = at

    @property
    def needs_page(self) -> bool:
        """Whether what follows has to be read from storage."""
        if self.live or self._page:
            return False
        self.live = self._position >= self.head.seq
        return not self.live

    def take_page(self, entries: list[InboxEntry], after: int, head: int) -> None:
        """Entries that were read from after ``after``; of no use if the cursor was moved meanwhile.

        ``head`` is where the timeline ended when the read began. An empty page says that retention removed all up to there.
        """
        if self.live or after != self._position:
            return
        page = [entry for entry in reversed(entries) if entry.seq <= self.head.seq]
        self._page = page or None
        if not page:
            self._position = max(after, head)

    def fall_behind(self) -> None:
        """Forget what was pushed: it is read from storage."""
        if self.live:
            self._position = self.position
            self.live = False
            self._forget()

    def move(self, position: int) -> None:
        """Go on from after ``position``, forward or back."""
        self._position = position
        self._forget()
        self.live = position >= self.head.seq

    def _forget(self) -> None:
        self._pushed = None
        self._at = 0
        self.bytes = 0
        self._page = None
