"""Time: the two clocks of a server, and a timer wheel with one event-loop timer, however many deadlines there are.

- The wall clock may step: a person or NTP sets it, a board without a battery starts in a wrong year. It says what people are
  shown and what messages are stamped with, and decides nothing. In a cluster one clock does both: of several nodes one may be
  wrong by hours, and what it stamped would look old to the others, which remove what is old.
- What expires (messages, sessions, wills, tokens) is measured in a time that never steps and never goes back, also not from
  one start to the next. Nothing else may be compared with a stored deadline. In a cluster it follows the database's clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

log = logging.getLogger(__name__)

TICK = 0.25
_SLEW = 0.1


def _uptime() -> Callable[[], float]:
    """Seconds that go on steadily, through a suspended machine too where the system counts that."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else partial(time.clock_gettime, clock)


class ServerTime:
    """The two clocks, in ms since the Unix epoch. ``wall`` and ``uptime`` read the machine's, in seconds."""

    def __init__(self, wall: Callable[[], float] = time.time, uptime: Callable[[], float] | None = None) -> None:
        self._wall = wall
        self._uptime = uptime or _uptime()
        self._followed = self._uptime()
        self._anchor = wall() - self._followed
        self._follows = False

    def wall(self) -> int:
        """What the machine's clock says, or, where another one is followed, that."""
        return self.now() if self._follows else int(self._wall() * 1000)

    def now(self) -> int:
        """The time that deadlines are stored in and compared with: the wall clock's when it was anchored, and from there on
        with the uptime."""
        return int((self._anchor + self._uptime()) * 1000)

    def start_at(self, time: int) -> None:
        """Count from that time on (ms), which another clock shows now, and which is to be followed. Before anything was
        measured."""
        self._follows = True
        self._followed = self._uptime()
        self._anchor = time / 1000 - self._followed

    def follow(self, time: int) -> None:
        """Another clock, such as a database's, shows that time (ms): come nearer to it.

        `now` still never goes back, and is at most a tenth faster or slower than the uptime: a clock that is set wrong over
        there ends nothing at once.
        """
        uptime = self._uptime()
        most = (uptime - self._followed) * _SLEW
        self._followed = uptime
        self._anchor += max(-most, min(most, time / 1000 - uptime - self._anchor))

    def not_before(self, time: int) -> None:
        """Go on at ``time`` where that is later: the time had got that far when it was last used."""
        self._anchor = max(self._anchor, time / 1000 - self._uptime())


NO_SLOT: Final = -1


class Due(Protocol):
    """Whoever has a deadline in a `Wheel`, one at a time. ``wheel_slot`` is the wheel's; `NO_SLOT` at first."""

    wheel_slot: int

    def fire(self) -> None:
        """The deadline has passed."""


class Timer:
    """A call that has a deadline in a `Wheel`."""

    __slots__ = ("_call", "_wheel", "wheel_slot")

    def __init__(self, wheel: Wheel, call: Callable[[], None]) -> None:
        self.wheel_slot: int = NO_SLOT
        self._wheel = wheel
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call, and keep nothing of what would have been called. Once it was called this changes nothing."""
        self._call = None
        self._wheel.forget(self)

    def fire(self) -> None:
        """The deadline has passed: call."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Moment:
    """When something was, at the latest, in the event loop's time. Put right where the loop turns out to have been late."""

    __slots__ = ("time",)

    def __init__(self, time: float) -> None:
        self.time = time


class Wheel:
    """Calls by deadline, in the event loop's time (seconds).

    Resolution is a quarter of a second: a call comes at its deadline or up to that much later, never earlier. After the loop
    stood still for longer than that, it first reads once what waits in the sockets: else a deadline would pass for a client
    that had sent in time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Due, None]] = {}
        self._next = math.ceil(loop.time() / TICK)
        self.latest = Moment(self._next * TICK)
        """Now, or up to a tick later: for whoever notes a time with each packet, and need not know it better than a deadline
        is kept. Hold the moment, not its time."""
        self._handle: asyncio.Handle | None = None

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

    @property
    def reached(self) -> float:
        """Up to when deadlines have passed. It is less than `now` where the loop is late."""
        return (self._next - 1) * TICK

    def at(self, deadline: float, call: Callable[[], None]) -> Timer:
        """Call once ``deadline`` has passed. Who needs it no longer must cancel it: it keeps what it calls."""
        timer = Timer(self, call)
        self.put(timer, deadline)
        return timer

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once so many seconds have passed."""
        return self.at(self._loop.time() + seconds, call)

    def put(self, due: Due, deadline: float) -> None:
        """Give somebody who has none a deadline."""
        slot = due.wheel_slot = max(math.ceil(deadline / TICK), self._next)
        self._slots.setdefault(slot, {})[due] = None

    def forget(self, due: Due) -> None:
        """Take its deadline from somebody, where it has one. An empty slot goes too: its table alone would be kept until its
        time."""
        slot, due.wheel_slot = due.wheel_slot, NO_SLOT
        waiting = self._slots.get(slot)
        if waiting is not None:
            waiting.pop(due, None)
            if not waiting:
                del self._slots[slot]

    def _tick(self) -> None:
        current = math.floor(self._loop.time() / TICK)
        if current <= self._next:
            self._pass(current)
        else:  # it stood still
            self._handle = self._loop.call_soon(self._let_read, current)

    def _let_read(self, current: int) -> None:
        """Of the calls for one round, those that were asked for come before the sockets: ask for another round."""
        self._handle = self._loop.call_soon(self._has_read, current)

    def _has_read(self, current: int) -> None:
        self.latest.time = self._loop.time()  # what it has read since the last tick may have come just now
        self._pass(current)

    def _pass(self, current: int) -> None:
        while self._next <= current:
            slot = self._next
            waiting = list(self._slots.pop(slot, ()))
            self._next += 1  # before the calls: what one of them sets for now must not land in the slot just emptied
            for due in waiting:
                if due.wheel_slot != slot:
                    continue  # an earlier one of them took its deadline from it
                due.wheel_slot = NO_SLOT
                try:
                    due.fire()
                except Exception:  # one deadline's fault must not stop the clock
                    log.exception("a deadline failed")
        self.latest = Moment(self._next * TICK)
        self._handle = self._loop.call_at(self._next * TICK, self._tick)
