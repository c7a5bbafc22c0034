"""The two clocks of a machine, as a test sets them."""

from __future__ import annotations

from broker.clock import ServerTime

MONDAY = 1_795_305_600_000
"""2026-11-22 00:00 UTC, in ms."""


class Clocks:
    """In seconds: `wall` is what people see, `uptime` never steps."""

    def __init__(self) -> None:
        self.wall, self.uptime = MONDAY / 1000, 100.0

    @property
    def time(self) -> ServerTime:
        return ServerTime(lambda: self.wall, lambda: self.uptime)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds
