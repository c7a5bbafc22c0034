"""Log lines that a flood of events cannot turn into a flood of lines."""

from __future__ import annotations

import logging
import time


class Seldom:
    """Warns at most once per ``interval`` seconds, and then says how many times it kept quiet."""

    __slots__ = ("_interval", "_logger", "_muted", "_next")

    def __init__(self, logger: logging.Logger, interval: float) -> None:
        self._logger = logger
        self._interval = interval
        self._next = 0.0
        self._muted = 0

    def warning(self, text: str, *values: object) -> None:
        now = time.monotonic()
        if now < self._next:
            self._muted += 1
            return
        self._next = now + self._interval
        if self._muted:
            text, values = text + " (and %d times more before this)", (*values, self._muted)
            self._muted = 0
        self._logger.warning(text, *values)
