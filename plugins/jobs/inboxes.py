"""Trimming inboxes: removing entries that every living device has acknowledged, but for the newest of them.

The lowest offset is asked for where no device can begin before it (`broker.sessions.retention_lock`), so that it holds at the
moment of the removal. The conversations keep their messages.
"""

from __future__ import annotations

from broker.amqtt import Services
from plugins.jobs.config import Inboxes
from plugins.jobs.work import SAVED_WITHIN, Work

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
        work.detail |= {"inboxes": 0, "removed": 0}
        await self._server.save_offsets(SAVED_WITHIN)
        work.what = "trimming inboxes"
        async for user, first, last in self._server.storage.inboxes():
            await self._trim(user, first, last, work)
            work.count("inboxes")
            if not work.detail["inboxes"] % 100:
                await work.pause()

    async def _trim(self, user: str, first: int, last: int, work: Work) -> None:
        count = STEP
        while count == STEP:
            count = await self._step(user, first, last)
            first += count
            work.count("removed", count)
            work.done += count
            self._server.counters.entries_trimmed += count
            if count:
                await work.pause()

    async def _step(self, user: str, first: int, last: int) -> int:
        if not await self._wanted(user, first, last):
            return 0  # without anybody waiting for it
        async with self._server.retention_lock.removing():
            wanted = await self._wanted(user, first, last)
            if not wanted:
                return 0
            return await self._server.storage.prune_inbox(user, first + wanted, wanted, self._server.now())

    async def _wanted(self, user: str, first: int, last: int) -> int:
        lowest = await self._server.lowest_offset(user)
        before = (last if lowest is None else min(last, lowest)) + 1 - self._keep
        return max(0, min(STEP, before - first))
