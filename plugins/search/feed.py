"""Feeding what is stored to an engine, page after page, with several pages under way where the engine takes them.

Pages are given in order, and count as taken in order: the feed's positions are those of the last page that the engine has with
all before it. When one fails, those behind it are waited for, whatever becomes of them, and reading goes on behind what was
taken. What was indexed of them comes again then, which adds nothing twice.

Removals must not overtake a page, nor a page that comes again bring back what they removed: settle first (`Feed.settle`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from plugins.follower import Follower, Positions, Read
from plugins.search.engine import Document, Writer
from storage.ending import end
from storage.interface import Tails

_SPACES = 4
"""Pages given in the time that one takes, about: more would cost requests, fewer would leave a server without the next one."""
_LARGE = 1.0
"""Full pages that may be under way when one more is given. A server then always has the next one, and no more is kept."""


class Page(NamedTuple):
    """What was read at once, and how full a page it made, 0 to about 1."""

    read: Read
    full: float


class _Given(NamedTuple):
    task: asyncio.Task[None]
    page: Page
    at: float


class Feed:
    """Reads ``source`` on from ``positions`` and gives it to ``writer``.

    ``known_ends``: as a `Follower` has them. ``taken`` is called for each page that the engine has, in order. ``ended`` is
    called when none is under way any more, or one has failed: `room` raises then.
    """

    def __init__(
        self,
        source: Tails,
        writer: Writer,
        positions: Positions,
        known_ends: Mapping[int, int],
        *,
        taken: Callable[[Read], None] = lambda read: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.positions = dict(positions)
        """How far each writer's messages are taken."""
        self._source = source
        self._writer = writer
        self._known_ends = known_ends
        self._taken = taken
        self._ended = ended
        self._follower = Follower(source, positions, known_ends, texts=True)
        self._under_way: deque[_Given] = deque()
        self._took = 0.0
        self._careful = False
        """Something has failed and nothing was taken since: one page at a time."""

    @property
    def more(self) -> bool:
        """Whether there is more to read for sure."""
        return self._follower.more

    @property
    def idle(self) -> bool:
        """Whether the engine has all that was read."""
        return not self._under_way

    @property
    def space(self) -> float:
        """Seconds to leave between two pages while any is under way."""
        return 0.0 if self.idle else self._took / _SPACES

    async def tails(self) -> dict[int, int]:
        """How far each writer's messages are complete now."""
        return await self._follower.tails()

    async def read(self, limit: int, max_bytes: int) -> Page:
        """The next page, behind all that was given; the same one again until it is given, or passed."""
        read = await self._follower.read(limit, max_bytes)
        size = sum(len(message.payload) for message in read.messages)
        return Page(read, max(len(read.messages) / limit, size / max_bytes))

    def give(self, page: Page, documents: Sequence[Document]) -> None:
        """Give the engine what is searchable of a page. It is under way from now on: make `room` before the next."""
        task = asyncio.get_running_loop().create_task(self._writer.index(documents, page.read.positions), name="index a page")
        self._under_way.append(_Given(task, page, time.monotonic()))
        self._follower.take(page.read.positions)
        task.add_done_callback(self._look)

    def pass_over(self, page: Page) -> bool:
        """Go on behind a page with nothing to index, where no other is under way; whether the positions are others."""
        assert self.idle
        self._follower.take(page.read.positions)
        before, self.positions = self.positions, dict(page.read.positions)
        return before != self.positions

    async def room(self) -> None:
        """Wait until one more page may be given. Raises what a page that was given has raised."""
        most = 1 if self._careful else self._writer.ahead
        await self._until(lambda: len(self._under_way) < most and self._full() <= _LARGE)

    async def settle(self) -> None:
        """Wait until the engine has all that it was given. Raises as `room` does."""
        await self._until(lambda: False)

    async def end(self) -> None:
        """Leave what is under way to itself."""
        tasks = [given.task for given in self._under_way]
        self._under_way.clear()
        await end(tasks)

    def _full(self) -> float:
        return sum(given.page.full for given in self._under_way)

    async def _until(self, enough: Callable[[], bool]) -> None:
        self._look()
        while self._under_way and not enough():
            first = self._under_way[0].task
            await asyncio.wait([first])
            self._look()
            if self._under_way and self._under_way[0].task is first:
                await self._fail(first)

    async def _fail(self, first: asyncio.Task[None]) -> None:
        """A page was not taken: once none is under way any more, go back to behind what was."""
        tasks = [given.task for given in self._under_way]
        await asyncio.wait(tasks)
        self._under_way.clear()
        self._careful = True
        self._follower = Follower(self._source, self.positions, self._known_ends, texts=True)
        await asyncio.gather(*tasks, return_exceptions=True)  # looked at, so that none is told of as never retrieved
        first.result()

    def _look(self, _: object = None) -> None:
        """Take what the engine has, up to the first page that it has not."""
        if not self._under_way:
            return
        while self._under_way and _succeeded(self._under_way[0].task):
            given = self._under_way.popleft()
            self._took = time.monotonic() - given.at
            self.positions, self._careful = dict(given.page.read.positions), False
            self._taken(given.page.read)
        if not self._under_way or self._under_way[0].task.done():
            self._ended()


def _succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
