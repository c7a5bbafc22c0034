"""Trimming inboxes: removing entries that every living device has acknowledged, but for the newest of them.

The lowest offset is asked for right before each step, with nothing awaited in between: a device that is being opened counts
with offset 0 until its place is known. The conversations keep their messages.
"""

from __future__ import annotations

from typing import cast

from broker.amqtt.server_view import Services
from plugins.jobs.config import Inboxes
from plugins.jobs.work import Work
from storage.interface import Catalogue

STEP = 500


class InboxesJob:
    """See the module."""

    name = "inboxes"
    about = "removes inbox entries that every device has acknowledged, but for the newest"

    def __init__(self, server: Services, config: Inboxes) -> None:
        self._server = server
        self._keep = config.keep

    async def run(self, work: Work) -> None:
        """Trim every inbox."""
        work.told |= {"inboxes": 0, "removed": 0}
        work.what = "trimming inboxes"
        async for user, first, last in cast(Catalogue, self._server.storage).inboxes():
            await self._trim(user, first, last, work)
            work.count("inboxes")
            if not work.told["inboxes"] % 100:
                await work.pause()

    async def _trim(self, user: str, first: int, last: int, work: Work) -> None:
        count = STEP
        while count == STEP:
            lowest = self._server.lowest_offset(user)
            before = (last if lowest is None else min(last, lowest)) + 1 - self._keep
            wanted = max(0, min(STEP, before - first))
            count = await self._server.storage.prune_inbox(user, before, wanted) if wanted else 0
            first += count
            work.count("removed", count)
            work.done += count
            self._server.counters.entries_trimmed += count
            if count:
                await work.pause()
