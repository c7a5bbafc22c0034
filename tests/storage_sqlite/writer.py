"""A process that commits groups to a SQLite file, and writes a line after each."""

from __future__ import annotations

import asyncio
import os
import sys

from storage.sqlite import SqliteStorage
from tests.storage.samples import Maker

COMMITS = 20


async def main(path: str) -> None:
    """Commit, and tell."""
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    for number in range(COMMITS):
        await storage.commit(make.appends(number + 1, f"t/{number % 3}", ["u/ann"]))
        os.write(1, b"committed\n")
    await storage.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
