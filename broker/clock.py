"""Time: the two clocks of a server, and a timer wheel with one event-loop timer, however many deadlines there are.

- The wall clock may step: a person or NTP sets it, a board without a battery starts in a wrong year. It says what people are
  shown and what messages are stamped with, and decides nothing.
- What expires (messages, sessions, wills, tokens) is measured in a time that never steps and never goes back, also not from
  one start to the next. Nothing else may be compared with a stored deadline.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial

log = logging.getLogger(__name__)

TICK = 0.25


def _uptime() -> Callable[[], float]:
    """Seconds that go on steadily, through a suspended machine too where the system counts that."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else partial(time.clock_gettime, clock)


class ServerTime:
    """The two clocks, in ms since the Unix epoch. ``wall`` and ``uptime`` read the machine's, in seconds."""

    def __init__(self, wall: Callable[[], float] = time.time, uptime: Callable[[], float] | None = None) -> None:
        self._wall = wall
        self._uptime = uptime or _uptime()
        self._anchor = wall() - self._uptime()

    def wall(self) -> int:
        """What the machine's clock says."""
        return int(self._wall() * 1000)

    def now(self) -> int:
        """The time that deadlines are stored in and compared with: the wall clock's when it was anchored, and from there on
        with the uptime."""
        return int((self._anchor + self._uptime()) * 1000)

    def not_before(self, time: int) -> None:
        """Go on at ``time`` where that is later: the time had got that far when it was last used."""
        self._anchor = max(self._anchor, time / 1000 - self._uptime())


class Timer:
    """One deadline of a `Wheel`."""

    __slots__ = ("_call", "_slot", "_wheel")

    def __init__(self, wheel: Wheel, slot: int, call: Callable[[], None]) -> None:
        self._wheel = wheel
        self._slot = slot
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call, and keep nothing of what would have been called. Once it was called this changes nothing."""
        if self._call is not None:
            self._call = None
            self._wheel.forget(self, self._slot)

    def fire(self) -> None:
        """The deadline has passed: call, unless it was cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Wheel:
    """Calls by deadline, in the event loop's time (seconds).

    Resolution is a quarter of a second: a call comes at its deadline or up to that much later, never earlier.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Timer, None]] = {}
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

    def at(self, deadline: float, call: Callable[[], None]) -> Timer:
        """Call once ``deadline`` has passed. Who needs it no longer must cancel it: it keeps what it calls."""
        slot = max(math.ceil(deadline / TICK), self._next)
        timer = Timer(self, slot, call)
        self._slots.setdefault(slot, {})[timer] = None
        return timer

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once so many seconds have passed."""
        return self.at(self._loop.time() + seconds, call)

    def forget(self, timer: Timer, slot: int) -> None:
        """What `Timer.cancel` does here. An empty slot goes too: its table alone would be kept until its time."""
        timers = self._slots.get(slot)
        if timers is not None:
            timers.pop(timer, None)
            if not timers:
                del self._slots[slot]

    def _tick(self) -> None:
        current = math.floor(self._loop.time() / TICK)
        while self._next <= current:
            timers = list(self._slots.pop(self._next, ()))
            self._next += 1  # before the calls: what one of them sets for now must not land in the slot just emptied
            for timer in timers:
                try:
                    timer.fire()
                except Exception:  # one deadline's fault must not stop the clock
                    log.exception("a deadline failed")
        self._handle = self._loop.call_at(self._next * TICK, self._tick)
