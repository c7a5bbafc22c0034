"""The old end of timelines, where retention removes and where a device may begin: never both at once.

- A device *begins* where it may be due entries that were due to nobody before: a new one with a start before the head, or one
  whose offset is set back. From before it asks storage where that is until it is durable, nothing is removed.
- While something is removed, whoever would begin waits: for one step, some hundred entries.
- Whoever removes is told who has begun since it last looked at what is waited for.

So what a removal knows of the lowest offsets holds at the moment of the removal, with any storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class RetentionLock:
    """Beginnings go on side by side, a removal alone; one that waits goes before beginnings that come after it."""

    def __init__(self) -> None:
        self.beginnings = 0
        self.waiting = 0
        """Who would begin, and waits for a removal."""
        self._removals = 0
        self._removing = False
        self._news = asyncio.Event()
        self._watchers: list[set[str]] = []

    async def begin(self, user: str) -> None:
        """A device of this inbox is about to begin; `begun` must follow."""
        self.waiting += 1
        try:
            while self._removals:
                await self._news.wait()
        finally:
            self.waiting -= 1
        self.beginnings += 1
        for watcher in self._watchers:
            watcher.add(user)

    def begun(self) -> None:
        """It has begun, durably, or will not."""
        self.beginnings -= 1
        self._tell()

    @asynccontextmanager
    async def removing(self) -> AsyncIterator[None]:
        """Nobody is beginning, and nobody begins until this is left."""
        self._removals += 1
        try:
            while self.beginnings or self._removing:
                await self._news.wait()
            self._removing = True
            try:
                yield
            finally:
                self._removing = False
        finally:
            self._removals -= 1
            self._tell()

    @contextmanager
    def watching(self) -> Iterator[set[str]]:
        """A set that inboxes come into as somebody begins there; who takes them out has looked."""
        users: set[str] = set()
        self._watchers.append(users)
        try:
            yield users
        finally:
            self._watchers.remove(users)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
