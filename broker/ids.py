"""Message ids and server time. No I/O besides reading the clock.

An id is 63 bits: 41 of milliseconds since 2020, 10 of node, 12 of count. Ids of one node rise strictly, also when the system
clock steps back, and across restarts (the last stored id is where they go on).
"""

from __future__ import annotations

import time
from collections.abc import Callable

EPOCH = 1_577_836_800_000  # 2020-01-01T00:00:00Z, in ms
_NODE_BITS, _COUNT_BITS = 10, 12


class Ids:
    """The source of one node's ids."""

    def __init__(self, node: int = 0, clock: Callable[[], float] = time.time) -> None:
        if not 0 <= node < 1 << _NODE_BITS:
            raise ValueError(f"node {node} is not between 0 and {(1 << _NODE_BITS) - 1}")
        self._node = node << _COUNT_BITS
        self._clock = clock
        self._ms = 0
        self._count = 0
        self.last = 0
        """The last id given."""

    def start_after(self, last_id: int) -> None:
        """Go on above an id that is stored already."""
        self._ms = max(self._ms, (last_id >> _NODE_BITS + _COUNT_BITS) + 1)
        self._count = 0
        self.last = max(self.last, last_id)

    def now(self) -> int:
        """Server time in ms since the Unix epoch; never behind the time of an id that was given."""
        return max(int(self._clock() * 1000), self._ms + EPOCH)

    def take(self) -> tuple[int, int]:
        """(id, server time in ms)."""
        now = int(self._clock() * 1000) - EPOCH
        if now > self._ms:
            self._ms = now
            self._count = 0
        else:
            self._count += 1
            if self._count >> _COUNT_BITS:
                self._ms += 1
                self._count = 0
        self.last = self._ms << _NODE_BITS + _COUNT_BITS | self._node | self._count
        return self.last, self._ms + EPOCH
