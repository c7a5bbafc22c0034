"""Message ids. No I/O besides reading the clock.

An id is 63 bits: 41 of milliseconds since 2020, 10 of node, 12 of count. Ids of one node rise strictly, whatever the system
clock does, and across restarts (the last stored id is where they go on).
"""

from __future__ import annotations

from broker.clock import ServerTime

EPOCH = 1_577_836_800_000  # 2020-01-01T00:00:00Z, in ms
_NODE_BITS, _COUNT_BITS = 10, 12


def time_of(message_id: int) -> int:
    """When an id was given: `ServerTime.now` at that moment, or somewhat later where ids were given faster than time went."""
    return (message_id >> _NODE_BITS + _COUNT_BITS) + EPOCH


class Ids:
    """The source of one node's ids."""

    def __init__(self, node: int = 0, time: ServerTime | None = None) -> None:
        if not 0 <= node < 1 << _NODE_BITS:
            raise ValueError(f"node {node} is not between 0 and {(1 << _NODE_BITS) - 1}")
        self._node = node << _COUNT_BITS
        self._time = time or ServerTime()
        self._ms = 0
        self._count = 0
        self.last = 0
        """The last id given."""

    def start_after(self, last_id: int) -> None:
        """Go on above an id that is stored already."""
        self._ms = max(self._ms, (last_id >> _NODE_BITS + _COUNT_BITS) + 1)
        self._count = 0
        self.last = max(self.last, last_id)

    def take(self) -> tuple[int, int]:
        """(id, wall clock in ms). Ids rise also where the wall clock goes back."""
        now = self._time.now() - EPOCH
        if now > self._ms:
            self._ms = now
            self._count = 0
        else:
            self._count += 1
            if self._count >> _COUNT_BITS:
                self._ms += 1
                self._count = 0
        self.last = self._ms << _NODE_BITS + _COUNT_BITS | self._node | self._count
        return self.last, self._time.wall()
