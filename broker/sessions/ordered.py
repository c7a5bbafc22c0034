"""Device keys in their order, so that a list of sessions costs what it shows, however many there are. No I/O.

They are in runs of some hundreds: to add or remove one costs two searches by halving, and a move within its run.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice

from storage.records import DeviceKey

_RUN = 1000
"""Keys of a run at most; then it becomes two."""


class Ordered:
    """A set of keys, by user and client id."""

    __slots__ = ("_lasts", "_runs")

    def __init__(self) -> None:
        self._runs: list[list[DeviceKey]] = []
        self._lasts: list[DeviceKey] = []
        """The last key of each run."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._runs)

    def add(self, key: DeviceKey) -> None:
        """Add one that is not there."""
        if not self._runs:
            self._runs.append([])
            self._lasts.append(key)
        at = min(bisect_left(self._lasts, key), len(self._runs) - 1)
        run = self._runs[at]
        insort(run, key)
        if len(run) > _RUN:
            half = len(run) // 2
            self._runs[at : at + 1] = run[:half], run[half:]
            self._lasts[at : at + 1] = run[half - 1], run[-1]
        else:
            self._lasts[at] = run[-1]

    def remove(self, key: DeviceKey) -> None:
        """Remove one that is there."""
        at = bisect_left(self._lasts, key)
        run = self._runs[at]
        del run[bisect_left(run, key)]
        if run:
            self._lasts[at] = run[-1]
        else:
            del self._runs[at], self._lasts[at]

    def since(self, key: DeviceKey) -> Iterator[DeviceKey]:
        """Those from a key on. Nothing may be added or removed meanwhile."""
        at = bisect_left(self._lasts, key)
        if at < len(self._runs):
            run = self._runs[at]
            yield from islice(run, bisect_left(run, key), None)
            for run in self._runs[at + 1 :]:
                yield from run
