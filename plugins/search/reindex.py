"""Building an index again beside the live one, page by page. A part of the indexer's task.

What is removed from the live index meanwhile is removed from the new one too (`Reindex.forget`). Where it has read the whole
store, it takes the live one's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from plugins.search.compare import documents
from plugins.search.engine import Rebuild, SearchError
from storage.interface import Tail


@dataclass(frozen=True, slots=True)
class Progress:
    """A rebuild under way: messages read so far, and how much of the way from the first to the last that is, 0 to 1."""

    messages: int
    fraction: float


Report = Callable[[Progress], None]


class Reindex:
    """One rebuild, a page a step. ``done`` gets the number of messages at the end; cancelling it ends the rebuild."""

    def __init__(self, source: Tail, rebuild: Rebuild, done: asyncio.Future[int], report: Report) -> None:
        self.done = done
        self.position = 0
        """The id of the last message that was read."""
        self._source = source
        self._rebuild = rebuild
        self._report = report
        self._first = 0
        self._messages = 0

    async def step(self, live: int, limit: int, max_bytes: int) -> bool:
        """Read one page; whether there is more. With none left, the new index is in use, at ``live`` or further."""
        page = await self._source.read_tail(self.position, limit, max_bytes)
        if page:
            await self._rebuild.index(await asyncio.to_thread(documents, page), page[-1].id)
            self._first = self._first or page[0].id
            self.position = page[-1].id
            self._messages += len(page)
            self._tell(await self._source.last_id())
            return True
        if self.position < live:  # the newest messages were removed meanwhile
            await self._rebuild.index([], live)
            self.position = live
        await self._rebuild.swap()
        return False

    def _tell(self, last: int) -> None:
        way = max(1, last - self._first)
        self._report(Progress(self._messages, min(1.0, (self.position - self._first) / way)))

    def finish(self) -> None:
        """Tell who waits that the new index is in use."""
        if not self.done.done():
            self.done.set_result(self._messages)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove a conversation's messages with seq < ``before_seq`` from what is built."""
        await self._rebuild.forget(topic, before_seq)

    async def abandon(self, error: BaseException | None = None) -> None:
        """Discard what was built, and tell who waits for it why."""
        if not self.done.done():
            if isinstance(error, Exception):
                self.done.set_exception(error)
            else:
                self.done.cancel()
        with suppress(SearchError):
            await self._rebuild.discard()
