"""The backends that give a cluster. One `ClusterBackend` object stands for one database of one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pymongo import AsyncMongoClient

from storage.cluster import Cluster
from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.memory import MemoryDatabase, MemoryNode
from storage.mongo.documents import Raw
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
from tests.support.until import until

T = TypeVar("T")
LEASE = 1.0


class ClusterBackend:
    """One database, and the nodes that a test has opened on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.opened: list[Storage] = []

    async def node(self, name: str = "", settings: Mapping[str, str] | None = None) -> Storage:
        """A node that has joined."""
        storage = await self._node(name, settings or {})
        self.opened.append(storage)
        return storage

    async def _node(self, name: str, settings: Mapping[str, str]) -> Storage:
        raise NotImplementedError

    def away(self, storage: Storage) -> AbstractAsyncContextManager[None]:
        """While entered, the node cannot reach the database. Never left: it has crashed."""
        raise NotImplementedError

    async def crash(self, storage: Storage) -> None:
        """The node ends without a word."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let everything that stands in the database be so much older."""
        raise NotImplementedError

    async def lane_entries(self) -> int:
        """How many parcels the database holds."""
        raise NotImplementedError

    async def destroy(self) -> None:
        """Close what the test left open."""
        for storage in self.opened:
            await storage.close()


class MemoryCluster(ClusterBackend):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.database = MemoryDatabase(lease=LEASE)

    async def _node(self, name: str, settings: Mapping[str, str]) -> Storage:
        node = MemoryNode(self.database, name)
        node.cluster_settings = settings
        await node.open()
        return node

    @asynccontextmanager
    async def away(self, storage: Storage) -> AsyncIterator[None]:
        assert isinstance(storage, MemoryNode)
        storage.faults.away = True
        yield
        storage.faults.away = False

    async def crash(self, storage: Storage) -> None:
        assert isinstance(storage, MemoryNode)
        storage.faults.away = True

    async def pass_time(self, seconds: float) -> None:
        now = self.database.now() + int(seconds * 1000)
        self.database.now = lambda: now

    async def lane_entries(self) -> int:
        return sum(len(lane) for lanes in self.database.lanes.values() for lane in lanes.values())


class MongoCluster(ClusterBackend):
    """Over the wire, each node through a proxy of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.database = mongo_server.new_database()
        self.proxies: dict[Storage, MongoProxy] = {}

    async def _node(self, name: str, settings: Mapping[str, str]) -> Storage:
        proxy = MongoProxy(*mongo_server.address())
        await proxy.start()
        options = f"serverSelectionTimeoutMS=1000&tideline_lease_ms={LEASE * 1000:.0f}"
        storage = mongo_server.PatientStorage(mongo_server.url(self.database, options, through=proxy.port))
        self.proxies[storage] = proxy
        storage.name, storage.cluster_settings = name, settings
        await ends(storage.open)  # a busy server may not answer a new client at once
        return storage

    @asynccontextmanager
    async def away(self, storage: Storage) -> AsyncIterator[None]:
        await self.proxies[storage].stop()
        yield
        await self.proxies[storage].start()

    async def crash(self, storage: Storage) -> None:
        await self.proxies[storage].stop()

    async def pass_time(self, seconds: float) -> None:
        async with AsyncMongoClient[Raw](mongo_server.url(self.database)) as client:
            routes = client[self.database].routes
            for document in await routes.find().to_list(None):
                await routes.update_one({"_id": document["_id"]}, {"$set": {"at": document["at"] - int(seconds * 1000)}})

    async def lane_entries(self) -> int:
        async with AsyncMongoClient[Raw](mongo_server.url(self.database)) as client:
            return len(await client[self.database].lanes.find().to_list(None))

    async def destroy(self) -> None:
        await super().destroy()
        for proxy in self.proxies.values():
            await proxy.stop()
        await mongo_server.drop(self.database)


BACKENDS = {"memory": MemoryCluster, "mongo": MongoCluster}


def part_of(storage: Storage) -> Cluster:
    """The node's part in the cluster."""
    assert storage.cluster is not None
    return storage.cluster


async def ends(call: Callable[[], Awaitable[T]]) -> T:
    """What comes of a call once the database, which is back, is found to be: the driver notices a moment later."""
    found: list[T] = []

    async def answers() -> bool:
        with suppress(StorageUnavailable):
            found.append(await call())
        return bool(found)

    await until(answers, "the database is back")
    return found[0]
