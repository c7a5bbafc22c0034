"""A histogram in plain integers: cheap to add to on the message path, and read by whoever publishes it. No I/O."""

from __future__ import annotations

LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds, from what an idle broker takes to what a publisher gives up at."""

GROUP = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Messages."""


class Histogram:
    """How often what was measured was not above each of the ``bounds``, which rise. ``counts`` are of the ranges between them,
    and one more for what is above the last; ``total`` is the sum of all that was measured."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Something was measured, so many times."""
        counts, place = self.counts, 0
        for bound in self.bounds:  # a few steps, where `bisect` compares by Python's protocols
            if value <= bound:
                break
            place += 1
        counts[place] = counts[place] + times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many were measured."""
        return sum(self.counts)
