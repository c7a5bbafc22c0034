"""How many requests a second one caller, or one address, may make."""

from __future__ import annotations

import logging
import math
import time

from broker.counters import Counters
from broker.limits import Buckets, block_of
from broker.rate_limited_log import RateLimitedLog
from plugins.timelines import Who
from plugins.timelines.errors import TooMany

_SECONDS = 5.0
"""For how long a caller may save what it does not ask."""

_log = RateLimitedLog(logging.getLogger(__name__), 10.0)


class Rates:
    """``rate`` is of a caller who said who it is, ``rate_per_address`` of all from one address; 0 is any. The operator may ask
    as often as it likes."""

    def __init__(self, rate: float, rate_per_address: float, counters: Counters) -> None:
        self._users = Buckets(rate, rate * _SECONDS) if rate else None
        self._addresses = Buckets(rate_per_address, rate_per_address * _SECONDS) if rate_per_address else None
        self._counters = counters

    def address(self, host: str) -> int:
        """A request came from there: 0, or the seconds after which it may come again."""
        block = block_of(host)
        return self._take(self._addresses, block, "rate_per_address") if block else 0

    def caller(self, who: Who) -> None:
        """A request of somebody. Raises `TooMany`."""
        if not who.operator and (seconds := self._take(self._users, who.user, "rate")):
            raise TooMany("more requests a second than a caller may make", retry_after=seconds)

    def _take(self, buckets: Buckets | None, key: str, setting: str) -> int:
        if buckets is None:
            return 0
        wait = buckets.wait(key, time.monotonic(), 0.0)
        if not wait:
            return 0
        self._counters.limit_http_rate += 1
        _log.warning("http: %s asks more often than plugins.http.%s", key, setting, key=key)
        return math.ceil(wait)
