"""`memory://`."""

from __future__ import annotations

from storage.interface import Storage
from storage.memory import MemoryStorage
from tests.storage.backends import Backend


class MemoryBackend(Backend):
    name = "memory"
    durable = False
    faults = False

    async def open(self) -> Storage:
        storage = MemoryStorage()
        await storage.open()
        return storage


BACKEND = MemoryBackend
