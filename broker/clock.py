"""Deadlines: a timer wheel with one event-loop timer, however many deadlines there are.

Resolution is a quarter of a second: a call comes at its deadline or up to that much later, never earlier. There is no
cancelling: whoever is called looks whether the deadline still means something.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

log = logging.getLogger(__name__)

TICK = 0.25


class Wheel:
    """Calls by deadline, in the event loop's time (seconds)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._next = math.ceil(loop.time() / TICK)
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._handle = self._loop.call_at(self._next * TICK, self._tick)

    def stop(self) -> None:
        """Forget all deadlines."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()

    def now(self) -> float:
        """The time that deadlines are measured in."""
        return self._loop.time()

    def at(self, deadline: float, call: Callable[[], None]) -> None:
        """Call once ``deadline`` has passed."""
        slot = max(math.ceil(deadline / TICK), self._next)
        self._slots.setdefault(slot, []).append(call)

    def _tick(self) -> None:
        current = math.floor(self._loop.time() / TICK)
        while self._next <= current:
            calls = self._slots.pop(self._next, ())
            self._next += 1  # before the calls: what one of them sets for now must not land in the slot just emptied
            for call in calls:
                try:
                    call()
                except Exception:  # one deadline's fault must not stop the clock
                    log.exception("a deadline failed")
        self._handle = self._loop.call_at(self._next * TICK, self._tick)
