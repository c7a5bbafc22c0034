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
    """Whoever was let in."""

    def abort(self) -> None:
        """End at once; `Admission.leave` follows."""


class Total:
    """How many connections all listeners together have open; ``limit`` 0 is no limit."""

    __slots__ = ("limit", "open")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0


class Admission:
    """Counts one listener's open connections, and says when there are too many, there or in ``total``."""

    __slots__ = ("_counters", "_empty", "_log", "_total", "limit", "name", "open")

    def __init__(self, name: str, limit: int, counters: Counters, total: Total | None = None) -> None:
        self.name = name
        self.limit = limit
        self._total = total if total is not None else Total(0)
        self.open: set[Guest] = set()
        self._counters = counters
        self._empty = asyncio.Event()
        self._log = RateLimitedLog(logger, _INTERVAL)

    @property
    def full(self) -> str:
        """Why nobody more may come in; empty where somebody may."""
        if self.limit and len(self.open) >= self.limit:
            return f"max_connections {self.limit} are open"
        if self._total.limit and self._total.open >= self._total.limit:
            return f"limits.max_connections {self._total.limit} are open"
        return ""

    def admit(self, guest: Guest) -> None:
        self._counters.connections_total += 1
        self.open.add(guest)
        self._total.open += 1

    def leave(self, guest: Guest) -> None:
        if guest in self.open:
            self.open.discard(guest)
            self._total.open -= 1
        if not self.open:
            self._empty.set()

    def over_limit(self, why: str) -> None:
        """A client was closed at once: as many are open as may be."""
        self._counters.limit_connections += 1
        self.turned_away(why)

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
        about = {"listener": self.name, "address": peer}
        self._log.warning("listener %s: %s: %s", self.name, peer, why, key=(peer.rpartition(":")[0], why), about=about)

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
