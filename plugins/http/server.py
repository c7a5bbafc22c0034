"""The HTTP server, as a part of the broker's process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn


class Server(uvicorn.Server):
    """A uvicorn that leaves the process's signals to the broker, and is told when to end, where its own loop looks ten
    times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def end(self) -> None:
        """Answer what is under way, and stop."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """Until the end, set the date that answers have once a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
