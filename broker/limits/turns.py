"""Who connects takes turns with everybody who is there already, so that those are served in between, whether a fleet comes back
at once or somebody floods the broker.

- While messages come or go there are so many turns a second (``limits.connect_pace``), as the other brokers have it: EMQX
  (``max_conn_rate``) and HiveMQ (``connect-rate``) then leave new sockets unread, too. What one CONNECT costs is some hundred
  times what a message does, and it takes Python's lock from the thread that writes to the disk.
- While none do there are a few in each round of the event loop, for about a millisecond.
- Addresses take turns: who floods the broker from one makes nobody wait who comes from another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

from broker.access import FairQueue
from broker.counters import Counters

_PER_ROUND: Final = 4
"""Turns in a round of the event loop while no messages come or go. Their sessions share a commit; twice as many were no
cheaper."""

_QUIET: Final = 1.0
"""Seconds after a message for which others are expected."""


class Pace:
    """How fast clients may come: ``rate`` a second while messages come or go, 0 for as fast as there are rounds."""

    def __init__(self, rate: float, counters: Counters) -> None:
        self._between = 1 / rate if rate else 0.0
        self._counters = counters
        self._seen = 0
        self._until = 0.0

    def wait(self) -> float:
        """The seconds between one and the next; 0 for a round of the event loop."""
        if not self._between:
            return 0.0
        now, seen = time.monotonic(), self._counters.publish_received + self._counters.publish_sent
        if seen != self._seen:
            self._seen, self._until = seen, now + _QUIET
        return self._between if now < self._until else 0.0


class _Turn:
    """A CONNECT that waits. ``call`` says whether it was there still."""

    __slots__ = ("address", "call", "user")

    def __init__(self, address: str, call: Callable[[], bool]) -> None:
        self.address = address
        self.user = ""
        self.call = call


class Turns:
    """Calls, one a turn, in the order in which they came from an address. Who says that it had nothing to do has taken no
    turn. No more wait than there are connections."""

    def __init__(self, pace: Pace, counters: Counters) -> None:
        self._pace = pace
        self._counters = counters
        self._queue: FairQueue[_Turn] = FairQueue(per_user=sys.maxsize, per_address=sys.maxsize)
        self._waiting = 0
        self._left = _PER_ROUND
        """Turns that are left until the next ones are given."""
        self._planned = False
        """It is planned when that is."""
        self._paced = False
        """It is some time away, as messages come or go."""

    def at_once(self, call: Callable[[], bool]) -> bool:
        """Call now, where it is its turn. Whether it was; else it is to `wait`."""
        if self._waiting or not self._left:
            return False
        if call():
            self._left -= 1
            if not self._planned:
                self._plan()
        return True

    def wait(self, address: str, call: Callable[[], bool]) -> None:
        """Call when it is its turn."""
        self._counters.limit_connect_pace += self._paced
        self._waiting += 1
        self._queue.put(_Turn(address, call))

    def _plan(self) -> None:
        self._planned = True
        loop, wait = asyncio.get_running_loop(), self._pace.wait()
        self._paced = wait > 0
        if wait:
            self._left = 0
            loop.call_later(wait, self._next)
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._planned = False
        most = self._left = 1 if self._pace.wait() else _PER_ROUND
        try:
            while self._left and (turn := self._queue.take()) is not None:
                self._waiting -= 1
                self._left -= turn.call()
        finally:
            if self._left < most or self._waiting:
                self._plan()
            else:
                self._left = _PER_ROUND
