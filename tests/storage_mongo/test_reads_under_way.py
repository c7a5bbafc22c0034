"""A read that was sent before a group began, and reaches the server while the group is under way, gives nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from storage.mongo import MongoStorage
from tests.storage.samples import START, Maker
from tests.support import mongo_server
from tests.support.mongo_proxy import Command, MongoProxy

Read = Callable[[MongoStorage], Awaitable[object]]


class _Order:
    """Lets the group through to its state phase first, and then the read that was sent before it."""

    def __init__(self, proxy: MongoProxy, collection: str) -> None:
        self._collection = collection
        self.read_sent, self.read_goes = asyncio.Event(), asyncio.Event()
        self.group_written, self.group_goes = asyncio.Event(), asyncio.Event()
        self._seen: list[Command] = []
        proxy.pass_on, proxy.held = self._see, self._hold

    def _see(self, command: Command) -> bool:
        self._seen.append(command)
        return True

    def _hold(self) -> Awaitable[object] | None:
        name, collection = self._seen[-1]
        if name in ("find", "aggregate") and collection == self._collection and not self.read_sent.is_set():
            self.read_sent.set()
            return self.read_goes.wait()
        if name == "update" and collection in ("conversations", "users"):
            self.group_written.set()
            return self.group_goes.wait()
        return None


@asynccontextmanager
async def _other_process(database: str, proxy: MongoProxy) -> AsyncIterator[MongoStorage]:
    """A storage that remembers no head."""
    async with asyncio.timeout(60):
        storage = MongoStorage(mongo_server.url(database, through=proxy.port))
        await storage.open()
        yield storage
        await storage.close()


READS: dict[str, tuple[str, Read, object]] = {
    "inbox": ("sync", lambda s: _seqs(s, 0), [1, 2]),
    "inbox head": ("sync", lambda s: s.inbox_head("u/ann"), 2),
    "inbox bounds": ("sync", lambda s: s.inbox_bounds("u/ann"), (1, 2)),
    "pointers": ("sync", lambda s: _pointers(s), [(1, "a", 1), (2, "a", 2)]),
    "conversation": ("store", lambda s: _conversation(s), [1, 2]),
    "newest first": ("store", lambda s: _conversation(s, limit=2, newest_first=True), [2, 1]),
    "conversation bounds": ("store", lambda s: s.conversation_bounds("a"), (1, 2)),
    "message": ("store", lambda s: s.read_message(3), None),
    "tail": ("store", lambda s: _tail(s), [1, 2]),
    "expired": ("store", lambda s: s.expired_between("a", 0, START + 100), 0),
}


async def _seqs(storage: MongoStorage, after: int) -> list[int]:
    return [entry.seq for entry in await storage.read_inbox("u/ann", after, 10)]


async def _pointers(storage: MongoStorage) -> list[tuple[int, str, int]]:
    return [(*pointer,) for pointer in await storage.read_pointers("u/ann", 0)]


async def _conversation(storage: MongoStorage, *, limit: int = 10, newest_first: bool = False) -> list[int]:
    return [message.id for message in await storage.read_conversation("a", limit=limit, newest_first=newest_first)]


async def _tail(storage: MongoStorage) -> list[int]:
    return [message.id for message in await storage.read_tail(0, 10)]


@pytest.mark.parametrize("kind", READS)
async def test_a_read_gives_nothing_of_a_group_that_began_behind_it(
    database: str, proxy: MongoProxy, make: Maker, kind: str
) -> None:
    collection, read, expected = READS[kind]
    async with _other_process(database, proxy) as storage:
        await storage.commit([make.append("a", ["u/ann"]) for _ in range(2)])
    async with _other_process(database, proxy) as storage:
        order = _Order(proxy, collection)
        reading = asyncio.ensure_future(read(storage))
        await order.read_sent.wait()
        group = [make.append("a", ["u/ann", "u/new"], expires=START + 50) for _ in range(2)]
        committing = asyncio.create_task(storage.commit([*group, make.append("new", ["u/new"])]))
        await order.group_written.wait()
        order.read_goes.set()
        assert await reading == expected
        assert not committing.done()
        order.group_goes.set()
        await committing
        assert await _seqs(storage, 0) == [1, 2, 3, 4]
