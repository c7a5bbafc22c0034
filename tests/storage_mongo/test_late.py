"""An insert that was sent under a lease, and reaches the server when another node holds it: history and inboxes agree again.

Nobody was acknowledged for it. It cannot be kept out of the store, so it is given to those that it was for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from storage.errors import FencedOut
from storage.mongo import MongoStorage
from storage.records import Append, DeviceKey
from tests.storage.samples import Maker, all_retained, opened
from tests.storage_mongo.groups import check_laws
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy
from tests.support.until import until

LEASE = "tideline_lease_ms=600"
ANN = DeviceKey("u/ann", "phone")


class Frozen:
    """A node whose insert into ``collection`` is held up until `thaw`; ``inserts`` counts those that it sent there."""

    def __init__(self, storage: MongoStorage, proxy: MongoProxy, collection: str) -> None:
        self.storage, self.sent, self.go = storage, asyncio.Event(), asyncio.Event()
        self.inserts = 0
        self._collection = collection
        self._last = Command("", "")
        proxy.pass_on, proxy.held = self._see, self._hold
        self._commit: asyncio.Task[None] | None = None

    def _see(self, command: Command) -> bool:
        if command == ("insert", self._collection):
            self.inserts += 1
            self.sent.set()
        self._last = command
        return True

    def _hold(self) -> Awaitable[object] | None:
        """Its beats wait too, but not what the driver looks after its connections with."""
        return self.go.wait() if self.sent.is_set() and self._last.name in WRITES and not self.go.is_set() else None

    async def commit(self, *group: Append) -> None:
        """Begin to commit, as far as that insert."""
        self._commit = asyncio.create_task(self.storage.commit(group))
        await self.sent.wait()

    async def thaw(self) -> None:
        """The insert lands; the node finds itself fenced, and acknowledges nothing."""
        self.go.set()
        assert self._commit is not None
        with pytest.raises(FencedOut):
            await self._commit


@asynccontextmanager
async def _frozen(database: str, proxy: MongoProxy, make: Maker, collection: str) -> AsyncIterator[Frozen]:
    async with asyncio.timeout(90):
        storage = MongoStorage(mongo_server.url(database, LEASE, through=proxy.port))
        await storage.open()
        await storage.commit([opened(ANN), make.append("a", ["u/ann"]), make.append("b", ["u/ann"])])
        yield Frozen(storage, proxy, collection)
        await storage.close()


async def _open(database: str) -> MongoStorage:
    storage = MongoStorage(mongo_server.url(database, LEASE))
    await storage.open()
    return storage


async def _reaches(storage: MongoStorage, head: int) -> None:
    async def there() -> bool:
        return await storage.inbox_head("u/ann") == head

    await until(there, "it is found")


async def _check(storage: MongoStorage, stored: int) -> None:
    """All laws, and that what is read is what is stored."""
    assert await check_laws(storage) == stored
    assert len(await storage.read_tail(0, 100)) == stored
    entries = await storage.read_inbox("u/ann", 0, 100)
    assert [entry.seq for entry in entries] == list(range(1, stored + 1))
    assert await storage.inbox_head("u/ann") == stored


@pytest.mark.parametrize("topic", ["a", "b", "quiet"])
@pytest.mark.parametrize("collection", ["store", "sync"])
async def test_a_topic_that_goes_on_meets_what_came_late(
    database: str, proxy: MongoProxy, make: Maker, collection: str, topic: str
) -> None:
    """``topic`` is what the new node writes to before it comes; then it writes where that is."""
    async with _frozen(database, proxy, make, collection) as old:
        late = make.append("a", ["u/ann"], device="late", payload=b"late")
        await old.commit(late)
        new = await _open(database)
        await new.commit([make.append(topic, ["u/ann"])])
        await old.thaw()
        after = [make.append("a", ["u/ann"]), make.append("b", ["u/ann", "u/bob"])]
        await new.commit(after)
        taken = (collection, topic) == ("store", "a")  # its place was taken: it was not stored at all
        await _check(new, 5 if taken else 6)
        seqs = [entry.seq for entry in await new.read_inbox("u/ann", 0, 9) if entry.message and entry.message.device == "late"]
        assert len(seqs) == (0 if taken else 1)
        assert max(seqs, default=0) < after[0].inbox_seqs[0]
        await new.close()
        again = await _open(database)
        await _check(again, 5 if taken else 6)
        await again.close()


@pytest.mark.parametrize("read", ["a conversation", "its newest", "the tail", "by id"])
async def test_it_is_hidden_until_the_inboxes_have_it(database: str, proxy: MongoProxy, make: Maker, read: str) -> None:
    """A reader that comes across it has it finished."""

    async def sees(storage: MongoStorage) -> bool:
        match read:
            case "a conversation":
                return len(await storage.read_conversation("a")) == 2
            case "its newest":
                return [m.seq for m in await storage.read_conversation("a", limit=1, newest_first=True)] == [2]
            case "the tail":
                return late.message.id in [m.id for m in await storage.read_tail(0, 9)]
            case _:
                return await storage.read_message(late.message.id) is not None

    async with _frozen(database, proxy, make, "store") as old:
        late = make.append("a", ["u/ann"], device="late")
        await old.commit(late)
        new = MongoStorage(mongo_server.url(database, "tideline_lease_ms=5000"))
        await new.open()
        await old.thaw()
        await until(lambda: sees(new), "the reader sees the message")
        assert [entry.seq for entry in await new.read_inbox("u/ann", 0, 9)] == [1, 2, 3]
        await _check(new, 3)
        await new.close()


async def test_a_quiet_topic_is_looked_at_by_itself(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Nobody reads it or writes to it. What the message carries beside is there too."""
    async with _frozen(database, proxy, make, "store") as old:
        await old.commit(make.append("r", ["u/ann"], retain=True), make.append("a", ["u/ann", "u/new"]))
        new = await _open(database)
        await new.commit([make.append("b", ["u/ann"], device="other")])
        await old.thaw()
        await until(lambda: new.inbox_head("u/new"), "it is found")
        assert await check_laws(new) == 5
        assert [message.topic for message in await all_retained(new)] == ["r"]
        await new.close()


@pytest.mark.parametrize("clean", [True, False], ids=["restarted", "killed"])
async def test_what_comes_after_two_changes_of_holder_is_found(
    database: str, proxy: MongoProxy, make: Maker, clean: bool
) -> None:
    other = MongoProxy(*mongo_server.address())
    await other.start()
    async with _frozen(database, proxy, make, "store") as old:
        await old.commit(make.append("a", ["u/ann"], device="late"))
        second = MongoStorage(mongo_server.url(database, LEASE + "&serverSelectionTimeoutMS=2000", through=other.port))
        await second.open()
        await second.commit([make.append("b", ["u/ann"])])
        if clean:
            await second.close()
        await other.stop()
        third = await _open(database)
        await old.thaw()
        await _reaches(third, 4)
        await _check(third, 4)
        await third.close()
        await second.close()


async def test_a_node_asks_for_its_lease_before_each_insert(database: str, proxy: MongoProxy, make: Maker) -> None:
    """A large group takes several: those behind the one that was held up are not sent."""
    async with _frozen(database, proxy, make, "store") as old:
        await old.commit(*(make.append(f"t/{n}", ["u/ann"], device="late") for n in range(2500)))
        new = await _open(database)
        await old.thaw()
        assert old.inserts == 1
        await _reaches(new, 1002)
        assert await check_laws(new) == 1002
        await new.close()


async def test_a_holder_that_ends_in_order_leaves_nothing_to_watch(database: str, make: Maker) -> None:
    for _ in range(3):
        storage = await _open(database)
        await storage.commit([make.append("a", ["u/ann"])])
        record = await storage.collections.lease.find_one({"_id": "serving"})
        assert record is not None
        assert record["late"] == []
        await storage.close()
