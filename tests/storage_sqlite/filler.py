"""A process that writes messages as fast as it can until it is refused, and tells how little space there ever was."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from pathlib import Path

from storage.errors import StorageUnavailable
from storage.records import DeviceKey, Progress
from storage.sqlite import SqliteStorage
from tests.storage.samples import Maker, opened

LOW_WATER = 48 << 20
GROUP = 32 << 20
"""Bytes of a group, as publishers may have pending."""


class Least:
    """The least free space that a thread of its own sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self.bytes = self._free()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _free(self) -> int:
        state = os.statvfs(self._folder)
        return state.f_bavail * state.f_frsize

    def _run(self) -> None:
        while not self._ended.wait(0.0005):
            self.bytes = min(self.bytes, self._free())

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return min(self.bytes, self._free())


async def main(path: Path, payload: int) -> None:
    make, storage = Maker(), SqliteStorage(path, low_water_bytes=LOW_WATER)
    await storage.open()
    phone = DeviceKey("u/ann", "phone")
    await storage.commit([opened(phone)])
    least, stored = Least(path.parent), 0
    try:
        while True:
            group = [make.append(payload=bytes(payload), to=["u/ann"]) for _ in range(max(1, min(2000, GROUP // payload)))]
            await storage.commit(group)
            stored += len(group)
    except StorageUnavailable as error:
        refused = str(error)
    for number in range(200):
        await storage.commit([Progress(phone, 1, number, number, [])])
    await storage.close()
    print(json.dumps({"refused": refused, "least": least.end(), "stored": stored}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
