"""Log lines that a flood of events cannot turn into a flood of lines, and in which it cannot hide other events either.

Within one interval each key (a user and a topic, say) has one line, and all keys together have `LINES`. What was left out is
counted, and told at the end of the next line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping

LINES = 20
"""Lines of different keys within one interval: what a log can take, and more than one cause of trouble has."""


class RateLimitedLog:
    """Warns at most once per ``interval`` seconds for each key, and at most `LINES` times for all of them."""

    __slots__ = ("_ends", "_interval", "_left_out", "_logger", "_shown")

    def __init__(self, logger: logging.Logger, interval: float) -> None:
        self._logger = logger
        self._interval = interval
        self._ends = 0.0
        self._shown: set[Hashable] = set()
        self._left_out = 0

    def warning(self, text: str, *values: object, key: Hashable = None, about: Mapping[str, object] | None = None) -> None:
        """Log the line, unless it is one too many. ``about`` are its fields, for logs that programs read."""
        now = time.monotonic()
        if now >= self._ends:
            self._ends = now + self._interval
            self._shown.clear()
        if key in self._shown or len(self._shown) >= LINES:
            self._left_out += 1
            return
        self._shown.add(key)
        if self._left_out:
            text, values = text + " (%d such lines were left out before this one)", (*values, self._left_out)
            self._left_out = 0
        self._logger.warning(text, *values, extra=about)
