"""The retained messages that memory has not: read for a SUBSCRIBE before it takes its place, and loaded at start.

While storage is away whoever needs it waits, as for an ACL that does not answer. A filter with wildcards may go through all
topics below what precedes its first wildcard: those filters take turns, page by page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.packets import is_wildcard, matches
from storage.errors import StorageUnavailable

if TYPE_CHECKING:
    from broker.retained.memory import Reading, Retained
    from storage.interface import RetainedReader
    from storage.records import Message

_PAGE = 256
_AGAIN = 0.5
"""Seconds until storage that is away is asked again."""


class StoredRetained:
    """Reads from storage what a `Reading` wants."""

    def __init__(self, retained: Retained, storage: RetainedReader, stopping: asyncio.Event) -> None:
        self._retained = retained
        self._storage = storage
        self._stopping = stopping
        self._scan = asyncio.Lock()

    async def load(self) -> None:
        """Take into memory as many as fit."""
        after = ""
        while self._retained.whole and (page := await self._storage.retained_range("", after, _PAGE)):
            for message in page:
                self._retained.put(message)
            after = page[-1].topic
        if not self._retained.whole:
            self._retained.counted(await self._storage.retained_count())

    async def read(self, reading: Reading, present: Callable[[], bool]) -> bool:
        """Find what the reading wants. False where whoever wanted it is no longer ``present``, or the broker stops."""
        while reading.wanted:
            filter_ = reading.wanted[-1]
            try:
                reading.found[filter_] = await self._matching(filter_)
            except StorageUnavailable:
                await asyncio.sleep(_AGAIN)
            else:
                reading.wanted.pop()
            if self._stopping.is_set() or not present():
                return False
        return True

    async def _matching(self, filter_: str) -> list[Message]:
        if not is_wildcard(filter_):
            return await self._exact(filter_)
        prefix = filter_[: min(place for sign in "+#" if (place := filter_.find(sign)) >= 0)]
        found = await self._exact(filter_[:-2]) if filter_ == f"{prefix}#" and prefix else []
        after = ""
        while page := await self._page(prefix, after):
            found += [message for message in page if matches(filter_, message.topic)]
            after = page[-1].topic
            await asyncio.sleep(0)  # storage in memory answers at once
        return found

    async def _page(self, prefix: str, after: str) -> list[Message]:
        async with self._scan:
            return await self._storage.retained_range(prefix, after, _PAGE)

    async def _exact(self, topic: str) -> list[Message]:
        page = await self._storage.retained_range(topic, "", 1)  # it comes before all that begin with it
        return [message for message in page if message.topic == topic]
