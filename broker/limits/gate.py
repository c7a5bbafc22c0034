"""Who may come in: connections by address and by user, CONNECTs and failed logins by address.

- An address is the client's own, also behind the PROXY protocol; of IPv6 its /64 (`broker.limits.addresses`). What has none, a
  Unix socket, is not limited by address.
- Whatever is over a limit is counted, and a flood of it logged now and then, with who it was.
- Who logged in from an address before is let try again with the same credentials while that address is barred: behind one
  address there may be a whole fleet, and one in it that guesses.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from broker.limits.addresses import block_of, host_of
from broker.limits.buckets import Buckets
from broker.limits.budget import Budget
from broker.limits.failures import Failures
from broker.limits.turns import Pace, Turns
from broker.packets import ReasonCode, shown
from broker.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import Limits
    from broker.counters import Counters

logger = logging.getLogger(__name__)

LATEST = 2.0
"""Seconds that a CONNECT may be held back before it is refused."""
TARPIT = 1.0
"""Seconds until who is barred hears so: it would come back at once."""
_KNOWN = 50_000
_INTERVAL = 10.0

Refusal = tuple[ReasonCode, str]


class Place:
    """What one connection counts as."""

    __slots__ = ("block", "over", "user")

    def __init__(self) -> None:
        self.block = ""
        self.user = ""
        self.over = False
        """Its address has as many already as it may: it stays until it has heard so."""


class Gate:
    """The limits of one broker node."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self.log = RateLimitedLog(logger, _INTERVAL)
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._connects = Buckets(limits.connect_rate, limits.connect_burst) if limits.connect_rate else None
        self._failures = Failures(limits.failed_logins, limits.failed_logins_pause) if limits.failed_logins else None
        self._known: OrderedDict[int, None] = OrderedDict()
        self.pace = Pace(limits.connect_pace, counters)
        self._turns = Turns(self.pace, counters)
        self.counts_addresses = limits.connections_per_address > 0
        self.counts_publishes = limits.publish_rate > 0 or limits.publish_bytes > 0

    # --- connections -------------------------------------------------------------------------------------------------

    def place(self, peer: str) -> Place | None:
        """A socket of ``peer`` (``host:port``) is open; `leave` must follow. None where it is to be closed without a word:
        those that are over the limit may be as many again, to hear so."""
        place = Place()
        block = block_of(host_of(peer))
        limit = self._limits.connections_per_address
        if not block or not limit:
            return place
        there = self._addresses[block]
        if there >= limit:
            self._counters.limit_connections_per_address += 1
            self.log.warning("%s: connection refused, connections_per_address %d are open", block, limit, key=("many", block))
            if there >= 2 * limit:
                return None
            place.over = True
        self._addresses[block] += 1
        place.block = block
        return place

    def take_user(self, place: Place | None, user: str, *, replaces: bool) -> tuple[Place | None, Refusal | None]:
        """The connection is a verified user's. ``replaces``: it takes over a connection of the same device."""
        limit = self._limits.connections_per_user
        if not limit or not user.startswith("u/"):
            return place, None
        if self._users[user] >= limit + replaces:
            self._counters.limit_connections_per_user += 1
            self.log.warning("user %s: refused, connections_per_user %d are open", shown(user[2:]), limit, key=("user", user))
            return place, (ReasonCode.QUOTA_EXCEEDED, f"user {shown(user[2:])} has {limit} connections already")
        place = place or Place()
        place.user = user
        self._users[user] += 1
        return place, None

    def leave(self, place: Place) -> None:
        """The connection is gone."""
        for counter, key in ((self._addresses, place.block), (self._users, place.user)):
            if key:
                counter[key] -= 1
                if counter[key] <= 0:
                    del counter[key]
        place.block = place.user = ""

    # --- CONNECT -----------------------------------------------------------------------------------------------------

    def knock(
        self, peer: str, place: Place | None, username: str | None, password: bytes | None
    ) -> tuple[float, Refusal | None]:
        """A CONNECT came from ``peer``: the seconds that it is to wait, and what it then hears, or None where it goes on."""
        if place is not None and place.over:
            limit = self._limits.connections_per_address
            return 0.0, (ReasonCode.QUOTA_EXCEEDED, f"{limit} connections are open from this address")
        host = host_of(peer)
        if self.barred(host, username, password):
            return TARPIT, (ReasonCode.CONNECTION_RATE_EXCEEDED, "too many failed logins from this address, try again later")
        block = block_of(host) if self._connects is not None else ""
        if self._connects is None or not block:
            return 0.0, None
        wait = self._connects.wait(block, time.monotonic(), LATEST)
        if wait <= LATEST:
            return wait, None
        self._counters.limit_connect_rate += 1
        rate = self._limits.connect_rate
        self.log.warning("%s: CONNECT refused, more than connect_rate %g a second", block, rate, key=("rate", block))
        return LATEST, (ReasonCode.CONNECTION_RATE_EXCEEDED, "too many connections from this address, try again later")

    def turn(self, peer: str, call: Callable[[], bool]) -> bool:
        """Call now, or when it is its turn (`Turns`). Whether it was now. Addresses count as they do elsewhere."""
        if self._turns.at_once(call):
            return True
        self._turns.wait(block_of(host_of(peer)), call)
        return False

    # --- logins ------------------------------------------------------------------------------------------------------

    def barred(self, host: str, username: str | None, password: bytes | None) -> float:
        """For how many seconds yet nobody is let try a password from there; 0 for not at all, or for who was right before."""
        if self._failures is None:
            return 0.0
        block = block_of(host)
        left = self._failures.barred(block, time.monotonic())
        if not left or (username is not None and hash((block, username, password)) in self._known):
            return 0.0
        self._counters.limit_failed_logins += 1
        return left

    def failed(self, host: str) -> float:
        """A login from there failed: the seconds until that is to be told."""
        block = block_of(host)
        if self._failures is None or not block:
            return 0.0
        now = time.monotonic()
        before = self._failures.barred(block, now)
        delay = self._failures.failed(block, now)
        if not before and self._failures.barred(block, now):
            self.log.warning(
                "%s: failed_logins %d within a minute: no login from there for %g s",
                block,
                self._limits.failed_logins,
                self._limits.failed_logins_pause,
                key=("failed", block),
            )
        return delay

    def succeeded(self, host: str, username: str | None, password: bytes | None) -> None:
        """Somebody logged in from there."""
        if self._failures is None or username is None:
            return
        mark = hash((block_of(host), username, password))
        self._known[mark] = None
        self._known.move_to_end(mark)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    # --- publishing --------------------------------------------------------------------------------------------------

    def budget(self, now: float, go_on: Callable[[], None]) -> Budget:
        """What a new connection may publish. Only where ``counts_publishes``."""
        limits = self._limits
        return Budget(limits.publish_rate, limits.publish_bytes, limits.publish_burst, now, go_on)

    def published_too_much(self, name: str, *, in_bytes: bool) -> bool:
        """Count and tell it; whether the client is to be disconnected."""
        if in_bytes:
            self._counters.limit_publish_bytes += 1
            over = f"publish_bytes {self._limits.publish_bytes}"
        else:
            self._counters.limit_publish_rate += 1
            over = f"publish_rate {self._limits.publish_rate:g}"
        ends = self._limits.publish_over == "disconnect"
        self.log.warning(
            "%s publishes more than %s a second: %s", name, over, "disconnected" if ends else "it is read more slowly", key=name
        )
        return ends
