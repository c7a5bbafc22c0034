"""Writers in processes of their own."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import partial

from tests.support.preloaded import ROOT, Preloaded


@dataclass
class Writer:
    """A running `tests.support.mongo_writer` and what it has acknowledged."""

    process: Preloaded
    acked: set[int] = field(default_factory=set)

    @classmethod
    async def start(
        cls, url: str, name: str = "w", first: int = 1, step: int = 1, groups: int = 10_000, seed: int = 0
    ) -> Writer:
        arguments = [str(argument) for argument in (url, name, first, step, groups, seed)]
        start = partial(Preloaded, arguments, cwd=ROOT, env=os.environ, piped=True, module="tests.support.mongo_writer")
        return cls(await asyncio.to_thread(start))

    async def line(self) -> bool:
        """Wait for the next line; False where there is none any more."""
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        if not line.endswith("\n"):
            return False
        if line.startswith("acked"):
            self.acked.update(map(int, line.split()[1:]))
        return True

    async def lines(self, count: int) -> None:
        """Wait for that many."""
        for _ in range(count):
            assert await self.line(), "the writer ended early"

    async def finish(self) -> None:
        """Read to the end."""
        while await self.line():
            pass
        await asyncio.to_thread(self.process.wait)

    async def kill(self) -> None:
        """SIGKILL."""
        self.kill_now()
        await self.finish()

    def kill_now(self) -> None:
        self.process.kill()
