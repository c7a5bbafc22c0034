"""Whose turn it is in an inbox to which several nodes append. No I/O.

An insert that finds its place taken costs the database as much as one that does not, so nodes that all try at once are slower
together than one alone. They take turns instead: the last entry of each insert says in which order its node has seen the others
write, itself last, so that one look at the inbox's end shows whose turn is next: who wrote longest ago.

This is courtesy, not a lock: the key alone decides who is first. Who does not take its turn is passed over. Who is not in the
order, as it has not written yet, tries at once, and waits longer each time that it loses. Time is counted in slots: what one
insert takes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_LONGEST = 8.0
"""Slots that who loses again and again waits at most."""
_IN_VAIN = 2
"""Looks in a row that bring this node no nearer to its turn, after which who is ahead is passed over."""
_MOST = 64
"""Nodes in the order: more of them do not all write to one inbox all the time."""


def pack_turns(order: Sequence[int]) -> bytes:
    """Two bytes for each node's number."""
    return struct.pack(f">{len(order)}H", *order)


def unpack_turns(packed: bytes) -> list[int]:
    """What `pack_turns` made."""
    return list(struct.unpack(f">{len(packed) // 2}H", packed))


class Turns:
    """The order of the nodes that write to one inbox, by their numbers, as ``me`` sees it."""

    __slots__ = ("_ahead", "_in_vain", "_me", "_news", "_order", "_seen")

    def __init__(self, me: int) -> None:
        self._me = me
        self._order: list[int] = []
        """Who wrote longest ago first."""
        self._seen = 0
        self._ahead = 0
        self._in_vain = 0
        self._news = False

    def saw(self, seq: int, writer: int, order: Sequence[int] = ()) -> None:
        """Take note of the newest entry: who wrote it, and in which order that node saw all of them; nothing, where it had met
        nobody."""
        if seq <= self._seen:
            return
        self._seen, self._news = seq, True
        self._order = list(order) if order else [one for one in self._order if one != writer] + [writer]

    @property
    def order(self) -> list[int]:
        """What is said with this node's entries: the order once they are written."""
        return [*(one for one in self._order if one != self._me), self._me][-_MOST:]

    @property
    def ahead(self) -> int:
        """How many come before this node: those that wrote longer ago. Nobody, where it is not in the order."""
        return self._order.index(self._me) if self._me in self._order else 0

    @property
    def alone(self) -> bool:
        """Nobody else is known to write."""
        return all(one == self._me for one in self._order)

    @property
    def near(self) -> bool:
        """It is this node's turn, or it is the next."""
        return self.ahead <= 1

    def begin(self) -> None:
        """This node has something to write: it begins to wait for its turn."""
        self._ahead = len(self._order) + 1
        self._in_vain = 0
        self._news = False

    def pause(self, lost: int, chance: float) -> float:
        """Slots to wait before looking, after so many inserts in a row that came too late; ``chance`` is from 0 to 1.

        Who has a place in the order goes by that, and so waits for nothing more after the first of them.
        """
        backoff = lost - (self._me in self._order)
        return chance * min(2.0**backoff, _LONGEST) if backoff > 0 else 0.0

    def wait(self) -> float:
        """After a look: slots to wait before the next one. 0: it is this node's turn, and it inserts at once.

        A turn takes longer than its insert; so who is next looks early, and those behind seldom.
        """
        ahead = self.ahead
        if ahead < self._ahead:
            self._in_vain, self._news = 0, False
        else:
            self._in_vain += 1
        if ahead and self._in_vain >= _IN_VAIN:
            # Where nobody wrote, all of them may have gone; else it is the first one that does not come.
            self._order = self._order[1 if self._news else ahead :]
            ahead = self.ahead
            self._in_vain, self._news = 0, False
        self._ahead = ahead
        return max(0.5, 1.5 * ahead - 1.0) if ahead else 0.0
