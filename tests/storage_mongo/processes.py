"""Writers in processes of their own."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Writer:
    """A running `tests.support.mongo_writer` and what it has acknowledged."""

    process: Process
    acked: set[int] = field(default_factory=set)

    @classmethod
    async def start(
        cls, url: str, name: str = "w", first: int = 1, step: int = 1, groups: int = 10_000, seed: int = 0
    ) -> Writer:
        arguments = (url, name, first, step, groups, seed)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.mongo_writer", *map(str, arguments), stdout=PIPE, cwd=ROOT
        )
        return cls(process)

    async def line(self) -> bool:
        """Wait for the next line; False where there is none any more."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            return False
        if line.startswith(b"acked"):
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
        await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        self.kill_now()
        await self.finish()

    def kill_now(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
