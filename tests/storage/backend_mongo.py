"""`mongodb://`, over the wire: nx-27017, or the server that ``TIDELINE_TEST_MONGODB`` names."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from pathlib import Path

from storage.interface import Storage
from storage.memory import MemoryDatabase, MemoryNode
from storage.mongo import reads
from storage.records import Message
from tests.storage.backends import Backend
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy

_PATIENCE = "serverSelectionTimeoutMS=1000&connectTimeoutMS=30000&socketTimeoutMS=120000"
"""A server that is away refuses connections at once. One that has a thousand rows to write, and does one thing at a time,
answers the driver's heartbeat after that, and whoever else waits. A busy machine takes longer over it than a broker waits, and
the driver ends the write."""


class Unswept(mongo_server.PatientStorage):
    """Sweeps nothing: its clock is the database's, and for that the samples' keys hold no more since long ago."""

    async def open(self) -> None:
        await super().open()
        self._state.sweep_at = math.inf

    async def last_id(self) -> int:
        """The samples' ids are of number 0. A busy machine may leave that with a node before this one, which could not say in
        time that it has ended, or was given up while it opened: then this one's own number says nothing of them."""
        if self._state.number == 0:
            return await super().last_id()
        of_all = copy(self._state)
        of_all.number = None
        return await reads.last_id(of_all)


class MongoBackend(Backend):
    name = "mongo"
    examples = 8

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.database = mongo_server.new_database()
        self.proxy: MongoProxy | None = None
        self.opened = False

    async def open(self) -> Storage:
        if self.breakable and self.proxy is None:
            self.proxy = MongoProxy(*mongo_server.address())
            await self.proxy.start()
        if self.proxy is not None:
            self.proxy.lose_nothing()  # a group that wrote nothing left the loss to whoever writes next
        through = self.proxy.port if self.proxy is not None else 0
        storage = self._storage(mongo_server.url(self.database, _PATIENCE, through=through))
        self.opened = True
        await storage.open()
        return storage

    def _storage(self, url: str) -> Storage:
        return Unswept(url)

    def model(self) -> Storage:
        """A device of this one is guarded, as one of several nodes."""
        return MemoryNode(MemoryDatabase())

    def away(self, storage: Storage) -> AbstractAsyncContextManager[None]:
        return self._away()

    @asynccontextmanager
    async def _away(self) -> AsyncIterator[None]:
        assert self.proxy is not None
        await self.proxy.stop()
        try:
            yield
        finally:
            await self.proxy.start()

    def lose_answer(self, storage: Storage) -> None:
        assert self.proxy is not None
        self.proxy.lose_next_write()

    def lose_nothing(self, storage: Storage) -> None:
        assert self.proxy is not None
        self.proxy.lose_nothing()

    def impossible(self, message: Message) -> Message | None:
        message.payload = bytes(16 << 20)
        return message

    async def destroy(self) -> None:
        if self.proxy is not None:
            await self.proxy.stop()
        if self.opened:
            await mongo_server.drop(self.database)


BACKEND = MongoBackend
