"""``mqtt.storage_timeout``: MQTT 5 publishers learn that storage does not take their messages.

Rules it keeps (docs/laws.md, 1, 4, 6):

- Only a message that no group has is refused, so that storage never heard of it. Those of the group under way may be
  stored by now, and wait until that is known.
- It has waited for the whole timeout; it is refused up to an eighth of that later.
- 3.1.1 has no word for it: its publishers wait. So do QoS 0, wills, and the messages of a client that has gone, as nobody
  could be told.
- Refusing takes messages out of the order and changes none of what stays.
"""

from __future__ import annotations

import logging
from collections import deque

from broker.clock import Wheel
from broker.commits import Commits
from broker.connection.handle_publish import Inbound
from broker.hooks import Refusal
from broker.packets import ReasonCode
from broker.pipeline import Pipeline, Step
from broker.publication import Acks, Publication
from broker.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

_STEPS = 8


class StorageTimeout:
    """Looks from time to time at what waits in the pipeline. ``timeout`` is in seconds; 0 refuses nothing."""

    def __init__(self, pipeline: Pipeline, commits: Commits, clock: Wheel, timeout: float) -> None:
        self._pipeline = pipeline
        self._commits = commits
        self._clock = clock
        self._timeout = timeout
        self._marks: deque[tuple[float, Publication | Step]] = deque()
        """What was the newest item at some time: it and what was before it have waited since then at least."""
        self._log = RateLimitedLog(log, 10.0)
        if timeout:
            self._again()

    def _again(self) -> None:
        self._clock.after(self._timeout / _STEPS, self._look)

    def _look(self) -> None:
        now = self._clock.now()
        newest = self._pipeline.last
        if newest is None:
            self._marks.clear()
        else:
            self._marks.append((now, newest))
        due: Publication | Step | None = None
        while self._marks and self._marks[0][0] + self._timeout <= now:
            due = self._marks.popleft()[1]
        if due is not None:
            self._refuse(self._pipeline.withdraw_until(due, _answerable))
        self._again()

    def _refuse(self, publications: list[Publication]) -> None:
        if not publications:
            return
        away = self._commits.unavailable_since is not None
        why = "storage is unavailable" if away else "storage does not keep up"
        self._log.warning("%s: %d messages were refused after %g s", why, len(publications), self._timeout)
        for publication in publications:
            if publication.error is None:
                publication.error = Refusal(f"{why}: not stored within {self._timeout:g} s", ReasonCode.QUOTA_EXCEEDED)
            origin = publication.origin
            assert isinstance(origin, Inbound)
            origin.stored(publication, Acks())


def _answerable(publication: Publication) -> bool:
    origin = publication.origin
    if not isinstance(origin, Inbound) or not origin.qos:
        return False
    connection = origin.waiting
    return connection.version >= 5 and not connection.closed
