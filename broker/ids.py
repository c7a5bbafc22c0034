"""Message ids. No I/O besides reading the clock.

An id is 63 bits: 41 of milliseconds since 2020, 10 of node, 12 of count. Ids of one node rise strictly, whatever the system
clock does, and across restarts (the last stored id is where they go on).
"""

from __future__ import annotations

from typing import Final

from broker.clock import ServerTime

EPOCH: Final = 1_577_836_800_000  # 2020-01-01T00:00:00Z, in ms
_NODE_BITS: Final = 10
_COUNT_BITS: Final = 12
LAYOUT = f"41 + {_NODE_BITS} + {_COUNT_BITS} bits"
"""Of time, node and count, in words."""


def time_of(message_id: int) -> int:
    """When an id was given: `ServerTime.now` at that moment, or somewhat later where ids were given faster than time went."""
    return (message_id >> _NODE_BITS + _COUNT_BITS) + EPOCH


class Ids:
    """The source of one node's ids."""

    def __init__(self, node: int = 0, time: ServerTime | None = None) -> None:
        self.number(node)
        self._time = time or ServerTime()
        self._now = 0
        self._wall = 0
        self._ms = 0
        self._count = 0
        self.last = 0
        """The last id given."""

    def number(self, node: int) -> None:
        """Give ids of that node from here on. Before the first one."""
        if not 0 <= node < 1 << _NODE_BITS:
            raise ValueError(f"node {node} is not between 0 and {(1 << _NODE_BITS) - 1}")
        self._node = node << _COUNT_BITS

    def start_after(self, last_id: int) -> None:
        """Go on above an id that is stored already."""
        self._ms = max(self._ms, (last_id >> _NODE_BITS + _COUNT_BITS) + 1)
        self._count = 0
        self.last = max(self.last, last_id)

    def take(self) -> tuple[int, int]:
        """(id, wall clock in ms). Ids rise also where the wall clock goes back."""
        self.read_clocks()
        return self.take_of_group()

    def read_clocks(self) -> None:
        """A group begins: `take_of_group` gives ids of this moment."""
        self._now = self._time.now() - EPOCH
        self._wall = self._time.wall()

    def take_of_group(self) -> tuple[int, int]:
        """`take`, without looking at the clocks for each message: it cost more than all else that numbering does."""
        if self._now > self._ms:
            self._ms = self._now
            self._count = 0
        else:
            self._count += 1
            if self._count >> _COUNT_BITS:
                self._ms += 1
                self._count = 0
        self.last = self._ms << _NODE_BITS + _COUNT_BITS | self._node | self._count
        return self.last, self._wall
