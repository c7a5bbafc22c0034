"""Building an index again beside the live one, page by page. A part of the indexer's task.

What is removed from the live index meanwhile is removed from the new one too (`Reindex.forget`). Where it has read the whole
store, it takes the live one's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from plugins.follower import Read
from plugins.search.compare import documents
from plugins.search.engine import Positions, Rebuild, SearchError
from plugins.search.feed import Feed
from storage.interface import Tails
from storage.records import Message


@dataclass(frozen=True, slots=True)
class Progress:
    """A rebuild under way: messages read so far, and how much of the way from the first to the last that is, 0 to 1.

    ``waiting`` says what is away, and how that shows, while nothing can go on for it; empty while it goes on.
    """

    messages: int
    fraction: float
    waiting: str = ""


Report = Callable[[Progress], None]

_LOOK = 0.5
"""Seconds between two looks at whether a rebuild waits."""


@asynccontextmanager
async def watched(report: Report, waiting: Callable[[], str]) -> AsyncIterator[Report]:
    """Passes reports on; in between, it also reports that what ``waiting`` says, a reason or nothing, has become another."""
    last = Progress(0, 0.0)

    def tell(progress: Progress) -> None:
        nonlocal last
        last = progress
        report(progress)

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK)
            if (why := waiting()) != last.waiting:
                tell(replace(last, waiting=why))

    watching = asyncio.create_task(watch(), name="rebuild waits")
    try:
        yield tell
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


class Reindex:
    """One rebuild, a page a step. ``done`` gets the number of messages at the end; cancelling it ends the rebuild."""

    def __init__(
        self,
        source: Tails,
        known_ends: Mapping[int, int],
        rebuild: Rebuild,
        superseded: Callable[[list[Message]], Awaitable[list[int]]],
        done: asyncio.Future[int],
        report: Report,
    ) -> None:
        self.done = done
        self._superseded = superseded
        self._feed = Feed(source, rebuild, {}, known_ends, taken=self._taken)
        self._rebuild = rebuild
        self._report = report
        self._first = 0
        self._messages = self._told = 0

    @property
    def positions(self) -> Positions:
        """Up to where each writer's messages are in the new index."""
        return self._feed.positions

    async def step(self, limit: int, max_bytes: int) -> bool:
        """Read one page; whether there is more. With none left, the new index is in use."""
        page = await self._feed.read(limit, max_bytes)
        if page.read.ends:
            await self._feed.settle()
            if page.read.positions != self.positions:
                self._feed.give(page, [])
                await self._feed.settle()
            await self._tell()
            await self._rebuild.swap()
            return False
        old = {*await self._superseded(page.read.messages)}
        await self.delete(old)
        shown = [message for message in page.read.messages if message.id not in old]
        self._feed.give(page, await asyncio.to_thread(documents, shown))
        await self._feed.room()
        await self._tell()
        return True

    def _taken(self, read: Read) -> None:
        if read.messages:
            self._first = min(self._first or read.messages[0].id, read.messages[0].id)
        self._messages += len(read.messages) + read.passed

    async def _tell(self) -> None:
        if self._messages == self._told:
            return
        self._told = self._messages
        tails = await self._feed.tails()
        way = sum(max(0, end - self._first) for end in tails.values())
        gone = sum(max(0, self.positions.get(number, 0) - self._first) for number in tails)
        self._report(Progress(self._messages, min(1.0, gone / max(1, way))))

    def finish(self) -> None:
        """Tell who waits that the new index is in use."""
        if not self.done.done():
            self.done.set_result(self._messages)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove a conversation's messages with seq < ``before_seq`` from what is built."""
        await self._feed.settle()
        await self._rebuild.forget(topic, before_seq)

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages from what is built."""
        if ids:
            await self._feed.settle()
            await self._rebuild.delete(ids)

    async def abandon(self, error: BaseException | None = None) -> None:
        """Discard what was built, and tell who waits for it why."""
        if not self.done.done():
            if isinstance(error, Exception):
                self.done.set_exception(error)
            else:
                self.done.cancel()
        await self._feed.end()
        with suppress(SearchError):
            await self._rebuild.discard()
