"""Failed logins by address: more and more delay, then nothing for a while. No I/O.

- A failure counts for a minute: the count falls by ``limit`` a minute, steadily. So one device with a wrong password, which
  tries again every second, is never more than a few.
- From `FREE` on each further answer "no" comes later, up to `LONGEST`. Only who was wrong waits.
- At ``limit`` the address is barred for ``pause`` seconds.
"""

from __future__ import annotations

from collections import OrderedDict

FREE = 10
"""Failures that delay nothing."""
_FIRST, LONGEST = 0.1, 5.0
_MOST = 20_000
"""Addresses that are remembered; the one that failed longest ago goes first."""


class _Record:
    __slots__ = ("barred_until", "count", "seen")

    def __init__(self) -> None:
        self.count = 0.0
        self.seen = 0.0
        self.barred_until = 0.0


class Failures:
    """``limit`` is failures a minute, ``pause`` seconds. Times are seconds of any one clock."""

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def failed(self, block: str, now: float) -> float:
        """A login failed: the seconds until that is to be told."""
        record = self._records.get(block)
        if record is None:
            record = self._records[block] = _Record()
            if len(self._records) > _MOST:
                self._records.popitem(last=False)
        else:
            self._records.move_to_end(block)
            record.count = max(0.0, record.count - (now - record.seen) * self._limit / 60)
        record.seen = now
        record.count += 1
        if record.count > self._limit - 1 and record.barred_until <= now:
            record.barred_until = now + self._pause
        beyond = record.count - FREE
        return 0.0 if beyond < 1 else float(min(LONGEST, _FIRST * 2 ** min(beyond - 1, 16)))

    def barred(self, block: str, now: float) -> float:
        """For how many seconds yet nobody is let in from there; 0 for not at all."""
        record = self._records.get(block)
        return 0.0 if record is None else max(0.0, record.barred_until - now)
