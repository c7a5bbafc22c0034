"""Counting reactions anew: where another node wrote a message's counts at the same moment, or where a reaction that was counted
was refused behind that, or is a repeat."""

from __future__ import annotations

import asyncio
import logging

from broker.amqtt import Services, Undecided
from broker.hooks import Group
from plugins.reaction_rows import COUNTS, GIVEN, counts_row, given_to, place
from storage.ending import end
from storage.errors import StorageError
from storage.records import DropRow, PutRow
from storage.rules import is_of_none

log = logging.getLogger("tideline.recall")

MOST = 10_000
"""Messages that wait to be counted; beyond these, the next reaction to one counts it anew."""
_AGAIN = 0.5
"""Seconds until storage that is away is asked again."""
_TIMEOUT = 10.0


class Recount:
    """See the module."""

    def __init__(self, server: Services) -> None:
        self._server = server
        self._wrong: dict[tuple[str, str], None] = {}
        self._task: asyncio.Task[None] | None = None

    def look_at(self, group: Group) -> None:
        """A group is committed: note whose counts were not taken."""
        for op in group.added:
            if not isinstance(op, PutRow | DropRow) or len(self._wrong) == MOST:
                continue
            if (op.table == COUNTS and op.error is not None) or (op.table == GIVEN and is_of_none(op)):
                self._wrong[op.part, op.key[: len(place(0))]] = None
        if self._wrong and self._task is None:
            self._task = asyncio.create_task(self._run(), name="counting of reactions")

    async def stop(self) -> None:
        """End; the next reaction to a message counts it anew. May be called twice."""
        await end([self._task])

    async def _run(self) -> None:
        try:
            while self._wrong:
                topic, key = next(iter(self._wrong))
                try:
                    if await self._count(topic, int(key)):
                        self._wrong.pop((topic, key), None)
                except (StorageError, Undecided) as error:
                    log.warning("counting reactions waits: %s", error)
                    await asyncio.sleep(_AGAIN)
        finally:
            self._task = None

    async def _count(self, topic: str, seq: int) -> bool:
        storage = self._server.storage
        kept = await storage.row(COUNTS, topic, place(seq))
        row = counts_row(topic, seq, kept, await given_to(storage, topic, seq))
        await self._server.commit([row], _TIMEOUT)
        return row.error is None
