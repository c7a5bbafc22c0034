"""The same by two writers of one database: what they do together is what one does."""

from __future__ import annotations

from typing import cast

from storage.interface import Storage
from storage.memory import MemoryDatabase, MemoryNode
from tests.storage.backend_mongo import MongoBackend, Unswept
from tests.storage.writers import Several


class TwoWriters(MongoBackend):
    name = "mongo-two"
    writers = 2
    examples = 4

    def _storage(self, url: str) -> Storage:
        return cast(Storage, Several([Unswept(url) for _ in range(self.writers)]))

    def model(self) -> Storage:
        database = MemoryDatabase()
        return cast(Storage, Several([MemoryNode(database) for _ in range(self.writers)]))


BACKEND = TwoWriters
