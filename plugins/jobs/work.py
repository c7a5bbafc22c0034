"""One run of a job: its pace, how far it is, what it has to tell, and how it is told to end.

Jobs work in small steps and `pause` between them. There they give everybody else a turn, and there alone they end early, so
that nothing is ever left half done: what a step did stays done, and the next run goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_LONGEST_REST = 1.0
SAVED_WITHIN = 10.0
"""Seconds in which what devices have acknowledged must be stored before a run goes by it."""


class Stopped(Exception):
    """The run was told to end, and did."""


class Failed(Exception):
    """The job cannot be done as things are; the text says why, and what would be right."""


class Work:
    """A run. ``share``: the part of the time, up to 1, that it may work."""

    def __init__(self, share: float = 1.0) -> None:
        self.what = ""
        """What it is at."""
        self.done = 0
        self.total = 0
        """``done`` of ``total``; a total of 0 is not known. Both may rise."""
        self.detail: dict[str, Any] = {}
        """What it has to tell: counts by name, mostly."""
        self._share = share
        self._stop = asyncio.Event()
        self._since = time.monotonic()

    def stop(self) -> None:
        """Have it end at its next pause."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def count(self, name: str, number: int = 1) -> None:
        """Add to what is told."""
        self.detail[name] = self.detail.get(name, 0) + number

    async def pause(self) -> None:
        """Rest for as long as the last step calls for. Raises `Stopped`."""
        rest = (time.monotonic() - self._since) * (1 / self._share - 1)
        if not self.stopping:
            try:
                async with asyncio.timeout(min(rest, _LONGEST_REST)):
                    await self._stop.wait()
            except TimeoutError:
                await asyncio.sleep(0)
        if self.stopping:
            raise Stopped
        self._since = time.monotonic()

    async def until(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what paces itself; cancelled when the run is told to end, which raises `Stopped`."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            stop.cancel()
            task.cancel()


class Job(Protocol):
    """Something that is done now and then."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What it does, in a line."""

    async def run(self, work: Work) -> None:
        """Do it. May raise `Stopped`, `Failed`, and what storage and the search engine raise."""
