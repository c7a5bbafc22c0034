"""What devices still wait for: the messages past the offset of a living device, of those that retention would remove.

What is past the lowest offset of an inbox counts as waited for, whatever the device's filters: an offset can only be behind
what its device is due, never ahead. In flight is not acknowledged, and a shared group is a reader like others. A device that
comes while the run goes on, or sets its offset back, is looked at again within a second.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping

from broker.server_view import Services
from plugins.jobs.work import Work

PAGE = 5000
_LOOK_AGAIN = 1.0


class Waiting:
    """Of the conversations in ``cuts``, and there of the sequences below the cut: what somebody waits for.

    For conversations in ``counted`` every entry is remembered (8 bytes each), for others the lowest.
    """

    def __init__(self, server: Services, cuts: Mapping[str, int], counted: Collection[str]) -> None:
        self._server = server
        self._cuts = cuts
        self._lowest: dict[str, int] = {}
        self._entries: dict[str, array[int]] = {topic: array("Q") for topic in counted}
        self._offsets: dict[str, int] = {}
        self._looked = 0.0

    def first(self, topic: str) -> int | None:
        """The lowest sequence that somebody waits for; None where nobody does."""
        return self._lowest.get(topic)

    def entries(self, topic: str, first: int, before: int) -> int:
        """How many entries of inboxes wait for ``first`` <= sequence < ``before`` of a conversation that is ``counted``."""
        found = self._entries[topic]
        return bisect_left(found, before) - bisect_left(found, first)

    async def look(self, work: Work) -> None:
        """Read what the inboxes point to, from their lowest offsets on."""
        for user, offset in (await self._server.lowest_offsets()).items():
            await self._read(user, offset, work)
        self._settle()

    async def look_again(self, work: Work) -> None:
        """Now and then: read what has come into view since, by an offset that is lower than it was, or new."""
        if time.monotonic() - self._looked < _LOOK_AGAIN:
            return
        for user, offset in (await self._server.lowest_offsets()).items():
            before = self._offsets.get(user)
            if before is None or offset < before:
                await self._read(user, offset, work, before)
        self._settle()

    def _settle(self) -> None:
        for topic, found in self._entries.items():
            self._entries[topic] = array("Q", sorted(found))
        self._looked = time.monotonic()

    async def _read(self, user: str, offset: int, work: Work, until: int | None = None) -> None:
        """Look at an inbox's entries past ``offset``, up to ``until``. What comes into it meanwhile is newer than any cut."""
        self._offsets[user] = offset
        after = offset
        while until is None or after < until:
            limit = PAGE if until is None else min(PAGE, until - after)
            page = await self._server.storage.read_pointers(user, after, limit)
            for after, topic, seq in page:
                before = self._cuts.get(topic)
                if before is not None and seq < before and (until is None or after <= until):
                    self._lowest[topic] = min(seq, self._lowest.get(topic, seq))
                    if topic in self._entries:
                        self._entries[topic].append(seq)
            await work.pause()
            if len(page) < limit:
                break
