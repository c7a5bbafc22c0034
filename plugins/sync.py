"""The plugin that decides about inboxes: where a device that never connected before begins to read."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from broker.hooks import SyncPlugin

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SINCE = re.compile(r"since:(\d+)(s|m|min|h|d)")
_LAST = re.compile(r"last:([1-9]\d*)")


def check_start(start: str) -> str:
    """``start`` itself; raises ValueError where it is no start position."""
    if start in ("latest", "earliest") or _LAST.fullmatch(start) or _SINCE.fullmatch(start):
        return start
    raise ValueError(f"start {start!r} must be latest, earliest, last:<n> or since:<duration>, such as last:100 or since:24h")


def position(start: str, now: int) -> str:
    """The position that a checked ``start`` names at a time (ms): a duration becomes the time that it reaches back to."""
    match = _SINCE.fullmatch(start)
    return f"since:{max(0, now - int(match[1]) * _SECONDS[match[2]] * 1000)}" if match else start


class InboxPlugin(SyncPlugin):
    """Feeds devices from their user's inbox; ``start`` is for devices that the broker has never seen."""

    @dataclass
    class Config:
        """Settings under ``plugins: sync:``."""

        start: str = "latest"
        """``latest``, ``earliest``, ``last:<n>`` entries, or ``since:<duration>`` (``since:3600s``, ``since:24h``)."""

        def __post_init__(self) -> None:
            check_start(self.start)

    def start_position(self) -> str:
        return position(self.config.start, int(time.time() * 1000))
