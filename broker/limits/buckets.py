"""Token buckets: so many a second, and some at once. No I/O.

A bucket may go into debt: who took more than there was waits until it is paid.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST = 20_000
"""Keys that are remembered; the one that was seen longest ago goes first, and begins with a full bucket again."""


class Buckets:
    """A bucket for each key. ``rate`` a second, ``burst`` at once. Times are seconds of any one clock."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, key: str, now: float, most: float) -> float:
        """Take one: the seconds to wait for it, or more than ``most`` where that would be more; then none was taken."""
        left, seen = self._left.get(key, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._rate) - 1.0
        seconds = max(0.0, -left / self._rate)
        if seconds > most:
            left += 1.0
        self._left[key] = (left, now)
        self._left.move_to_end(key)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        return seconds
