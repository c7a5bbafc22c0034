"""Who comes in at a listener: how many may, what is said of those who may not, and how many sockets the machine has.

- Over ``max_connections`` a client is accepted and closed at once: it hears that it must try elsewhere or later, and cannot
  fill the kernel's queue. The same where the process has no file descriptor left for it.
- `RESERVE` descriptors are kept for the rest of the process: a database that cannot open a file is worse than a client
  that is turned away.
- What is refused is counted, and a flood of it is logged now and then (`broker.rate_limited_log`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from typing import Protocol

from broker.counters import Counters
from broker.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

RESERVE = 64
"""File descriptors that are for the rest of the process; an eighth of them all where there are few."""

_INTERVAL = 10.0  # seconds between two lines about the same trouble


class Guest(Protocol):
    """Whoever the gate let in."""

    def abort(self) -> None:
        """End at once; `Gate.leave` follows."""


class Gate:
    """Counts one listener's open connections, and says when there are too many."""

    __slots__ = ("_counters", "_empty", "_log", "limit", "name", "open")

    def __init__(self, name: str, limit: int, counters: Counters) -> None:
        self.name = name
        self.limit = limit
        self.open: set[Guest] = set()
        self._counters = counters
        self._empty = asyncio.Event()
        self._log = RateLimitedLog(logger, _INTERVAL)

    @property
    def full(self) -> bool:
        """Whether as many are open as may be."""
        return bool(self.limit) and len(self.open) >= self.limit

    def admit(self, guest: Guest) -> None:
        self._counters.connections_total += 1
        self.open.add(guest)

    def leave(self, guest: Guest) -> None:
        self.open.discard(guest)
        if not self.open:
            self._empty.set()

    def turned_away(self, why: str) -> None:
        """A client was closed at once."""
        self._counters.connections_refused += 1
        self._log.warning("listener %s: connection refused, %s", self.name, why, key=why)

    def cannot_accept(self, why: str) -> None:
        """Clients wait in the kernel's queue; it is tried again."""
        self._log.warning("listener %s: cannot accept: %s", self.name, why, key=why)

    def handshake_failed(self, peer: str, why: str) -> None:
        """A client did not get as far as MQTT: its TLS or its WebSocket handshake failed, or it speaks something else."""
        self._counters.handshakes_failed += 1
        self._log.warning("listener %s: %s: %s", self.name, peer, why, key=(peer.rpartition(":")[0], why))

    async def clear(self) -> None:
        """Abort whatever is open, and wait until its connections know."""
        if self.open:
            self._empty.clear()
            for guest in list(self.open):
                guest.abort()
            await self._empty.wait()


def raise_descriptor_limit() -> None:
    """Let this process open as many files as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS: a hard limit of infinity is more than it takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors() -> int:
    """How many file descriptors connections may use; a very large number where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 31
    return soft - min(RESERVE, soft // 8)
