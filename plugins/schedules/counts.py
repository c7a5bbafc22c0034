"""How many messages of each user wait: counted in storage once, and from then on here.

In a cluster other nodes schedule and publish too. So what was counted is counted again after a while, and before anybody is
refused; a user may have as many more as the other nodes took within that while.
"""

from __future__ import annotations

from collections import OrderedDict

from broker.amqtt import Services
from plugins.schedules.entry import ID, OF

_USERS = 10_000
_COUNT_AGAIN = 10.0
"""Seconds, in a cluster."""
_PAGE = 1000


class Counts:
    """Of the users who scheduled something of late."""

    def __init__(self, server: Services, most: int) -> None:
        self._server = server
        self._most = most
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def room(self, user: str, now: float) -> bool:
        """Whether a user may schedule one more. ``now`` in seconds of a clock that never steps."""
        count, at = self._known.get(user, (self._most, now - _COUNT_AGAIN))
        if count >= self._most or (self._server.storage.cluster is not None and now - at >= _COUNT_AGAIN):
            count = await self._count(user)
            self._known[user] = count, now
            if len(self._known) > _USERS:
                self._known.popitem(last=False)
        return count < self._most

    def add(self, user: str, more: int = 1) -> None:
        """One more waits, or one less."""
        if user in self._known:
            count, at = self._known[user]
            self._known[user] = max(0, count + more), at

    async def _count(self, user: str) -> int:
        count, after = 0, ""
        while True:
            page = await self._server.storage.rows(OF, user, after=after, prefix=ID, limit=_PAGE)
            count += len(page)
            if not page or count > self._most:
                return count
            after = page[-1].key
