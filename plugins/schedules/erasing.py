"""Removes what waits for a user, or for a conversation, that is erased: see `plugins.recall.records.RecordEraser`."""

from __future__ import annotations

import logging

from broker.amqtt import Services
from plugins.recall.erasure import USER
from plugins.schedules.entry import CLOCKS, DUE, OF, Entry
from plugins.schedules.service import Schedules
from plugins.timelines import Timelines
from storage.records import DropRow, Row

log = logging.getLogger("tideline.schedules")

PAGE = 500
_TIMEOUT = 10.0


class Erasing:
    """Looks through all that waits, by when it is due: what comes again moves to where it is looked at later."""

    def __init__(self, server: Services, schedules: Schedules) -> None:
        self._server = server
        self._schedules = schedules

    async def __call__(self, what: str, name: str, after: str) -> str | None:
        start, _, key = after.partition("/")
        for clock in CLOCKS[CLOCKS.index(start) if start in CLOCKS else 0 :] if start != OF else ():
            rows = await self._server.storage.rows(DUE, clock, after=key if clock == start else "", limit=PAGE)
            for row in rows:
                entry = _entry(row)
                if entry is not None and name == (entry.user if what == USER else entry.topic):
                    await self._schedules.remove(entry)
            if rows:
                return f"{clock}/{rows[-1].key}"
        return OF if what == USER and await self._indexed(name) else None

    async def _indexed(self, user: str) -> bool:
        """Remove what a killed node left in the user's list; whether there may be more."""
        rows = await self._server.storage.rows(OF, user, limit=PAGE)
        if rows:
            await Timelines(self._server, _TIMEOUT).written([DropRow(OF, user, row.key) for row in rows])
        return bool(rows)


def _entry(row: Row) -> Entry | None:
    try:
        return Entry.decoded(row.value)
    except ValueError as error:  # it is never published
        log.error("schedule %s cannot be read, and is not erased: %s", row.key, error)
        return None
