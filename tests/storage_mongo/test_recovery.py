"""What `open` finishes, case by case: the process before it ended between two particular writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Append, DeviceKey, Operation, Release
from tests.storage.samples import START, Maker, all_retained, collect, fields_of, opened, subscribe
from tests.storage_mongo.groups import check_laws
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy

LEASE = "tideline_lease_ms=300"
ANN = DeviceKey("u/ann", "phone")


async def _crash(
    storage: MongoStorage, proxy: MongoProxy, doing: Callable[[], Awaitable[object]], verb: str, collection: str
) -> None:
    """Do something whose first ``verb`` on ``collection`` never reaches the server, and from then on nothing does."""
    cut = False

    def pass_on(command: object) -> bool:
        nonlocal cut
        cut = cut or command == (verb, collection)
        return not cut

    proxy.pass_on = pass_on
    with pytest.raises(StorageUnavailable):
        await doing()
    await proxy.stop()
    await storage.close()


async def _open(database: str, proxy: MongoProxy | None = None, *, shared: bool = False) -> MongoStorage:
    options = LEASE + "&serverSelectionTimeoutMS=2000"
    storage = MongoStorage(mongo_server.url(database, options, through=proxy.port if proxy else 0), shared=shared)
    await storage.open()
    return storage


async def _committed_until(
    database: str, proxy: MongoProxy, before: list[Operation], group: list[Operation], verb: str, collection: str
) -> MongoStorage:
    """A storage opened after one that was cut off within ``group``."""
    storage = await _open(database, proxy)
    await storage.commit(before)
    await _crash(storage, proxy, lambda: storage.commit(group), verb, collection)
    return await _open(database)


async def test_all_that_a_message_carries_is_finished(database: str, proxy: MongoProxy, make: Maker) -> None:
    old = make.append("r", retain=True, payload=b"old")
    messages = [
        make.append("a", ["u/ann", "u/bob"], received=(ANN, 7), qos=2),
        make.append("r", ["u/new"], retain=True, payload=b"new", properties=b"\1x", expires=START + 9),
        make.append("k", idempotency_key="key", idempotency_until=START + 1000, payload=b"once"),
    ]
    storage = await _committed_until(database, proxy, [opened(ANN), old], list(messages), "insert", "sync")
    assert await check_laws(storage, [2, 3, 4]) == 4
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {7}
    (retained,) = await all_retained(storage)
    assert fields_of(retained)[:2] == (3, "r")  # type: ignore[index]
    assert (retained.payload, retained.properties, retained.expires, retained.retain) == (b"new", b"\1x", START + 9, True)
    again = make.append("k", idempotency_key="key", idempotency_until=START + 1000, payload=b"once")
    await storage.commit([again])
    assert again.original == (4, 1)
    assert {topic for topic, _, _ in await collect(storage.conversations())} == {"a", "r", "k"}
    assert await collect(storage.inboxes()) == [("u/ann", 1, 1), ("u/bob", 1, 1), ("u/new", 1, 1)]
    (entry,) = await storage.read_inbox("u/new", 0, 9)
    assert fields_of(entry.message) == fields_of(retained)
    await storage.close()


async def test_a_cleared_topic_stays_cleared(database: str, proxy: MongoProxy, make: Maker) -> None:
    """The message that was cleared is of the last group that is in the store; the clearing is not stored at all."""
    storage = await _open(database, proxy)
    await storage.commit([make.append("r", retain=True, payload=b"old")])
    await storage.commit([make.append("r", retain=True, payload=b"", store=False)])
    await proxy.stop()
    await storage.close()
    storage = await _open(database)
    assert await all_retained(storage) == []
    assert await storage.collections.retained.find().to_list(None) == []
    assert await storage.last_id() == 2
    await storage.close()


async def test_a_released_packet_id_stays_released(database: str, proxy: MongoProxy, make: Maker) -> None:
    """The message is of the last group in the store, and complete: to remember its id again would swallow a later message."""
    storage = await _open(database, proxy)
    await storage.commit([opened(ANN), make.append(received=(ANN, 7), qos=2)])
    await storage.commit([Release(ANN, 7)])
    await proxy.stop()
    await storage.close()
    storage = await _open(database)
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == set()
    await storage.close()


async def test_pruned_entries_do_not_come_back(database: str, proxy: MongoProxy, make: Maker) -> None:
    storage = await _open(database, proxy)
    await storage.commit(make.appends(5, to=["u/ann"]))
    assert await storage.prune_inbox("u/ann", 4) == 3
    await proxy.stop()
    await storage.close()
    storage = await _open(database)
    assert [entry.seq for entry in await storage.read_inbox("u/ann", 0, 10)] == [4, 5]
    assert await storage.inbox_head("u/ann") == 5
    await storage.close()


async def test_ids_that_do_not_rise_are_recovered_all_the_same(database: str, proxy: MongoProxy, make: Maker) -> None:
    make.id = 1000
    before: list[Operation] = [make.append(to=["u/ann"])]
    make.id = 10
    group: list[Operation] = [make.append(to=["u/ann"]), make.append(to=["u/ann"])]
    storage = await _committed_until(database, proxy, before, group, "insert", "sync")
    assert [entry.message and entry.message.id for entry in await storage.read_inbox("u/ann", 0, 9)] == [1001, 11, 12]
    assert await storage.last_id() == 1001
    await storage.close()


async def test_entries_for_one_device_do_not_hide_what_is_missing(database: str, proxy: MongoProxy, make: Maker) -> None:
    """The group has put retained messages behind its first entry; the entry after them is missing."""
    kept = make.append("r", retain=True)
    first, second = make.append("a", ["u/ann"]), make.append("b", ["u/bob", "u/ann"])
    storage = await _open(database, proxy)
    await storage.commit([opened(ANN), kept, *make.appends(2, to=["u/ann"])])
    group: list[Operation] = [first, subscribe(ANN, "r", retained=[kept.message]), second]
    proxy.lose_write(2)  # the inboxes are written, and nobody is told
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    await proxy.stop()
    await storage.close()
    direct = await _open(database, shared=True)
    await direct.collections.sync.delete_one({"_id": f"u/ann\0{5:016d}"})  # as if it had never been written
    await direct.close()
    storage = await _open(database)
    entries = [(e.seq, e.target, e.message and e.message.id) for e in await storage.read_inbox("u/ann", 0, 10)]
    assert entries == [(1, "", 4), (2, "", 5), (3, "", 2), (4, "phone", 1), (5, "", 3)]
    await storage.close()


@pytest.mark.parametrize("kind", ["topic", "user"])
async def test_an_interrupted_removal_is_finished(database: str, proxy: MongoProxy, make: Maker, kind: str) -> None:
    storage = await _open(database, proxy)
    await storage.commit(make.appends(10, to=["u/ann"]))
    collection = "store" if kind == "topic" else "sync"

    async def prune() -> int:
        return await (storage.prune_conversation("a/b", 8) if kind == "topic" else storage.prune_inbox("u/ann", 8))

    proxy.pass_on = lambda command: command != ("delete", collection)
    with pytest.raises(StorageUnavailable):
        await prune()
    first = [m.seq for m in await storage.read_conversation("a/b")] if kind == "topic" else []
    entries = [e.seq for e in await storage.read_inbox("u/ann", 0, 20)]
    assert (first if kind == "topic" else entries) == [8, 9, 10]  # what is being removed is not read any more
    await proxy.stop()
    await storage.close()
    storage = await _open(database)
    if kind == "topic":
        assert await storage.conversation_bounds("a/b") == (8, 10)
        assert await storage.collections.store.count_documents({}) == 3
    else:
        assert [e.seq for e in await storage.read_inbox("u/ann", 0, 20)] == [8, 9, 10]
    assert await storage.collections.meta.find_one({"kind": {"$gt": ""}}) is None
    append = make.append(to=["u/ann"])
    await storage.commit([append])
    assert (append.message.seq, list(append.inbox_seqs)) == (11, [11])
    await storage.close()


async def test_what_writers_without_a_lease_left_is_finished(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Two of them were cut off, and a third has written behind them."""
    other = MongoProxy(*mongo_server.address())
    await other.start()
    for one in (proxy, other):
        storage = await _open(database, one, shared=True)
        await storage.commit([make.append("a", ["u/ann"])])
        await _crash(storage, one, lambda s=storage: s.commit(_appends(make, 3)), "insert", "sync")  # type: ignore[misc]
    storage = await _open(database, shared=True)
    for _ in range(3):
        await storage.commit(_appends(make, 2))
    await storage.close()
    with suppress(StorageUnavailable):
        await other.stop()
    storage = await _open(database)
    assert await check_laws(storage) == 2 + 6 + 6
    await storage.close()


def _appends(make: Maker, count: int) -> list[Append]:
    return make.appends(count, "a", ["u/ann"])


async def test_marks_of_cleared_topics_are_dropped_in_time(database: str, make: Maker) -> None:
    storage = await _open(database)
    for _ in range(3):
        await storage.commit([make.append(f"r/{n}", retain=True) for n in range(200)])
        await storage.commit([make.append(f"r/{n}", retain=True, payload=b"") for n in range(200)])
    await storage.commit([make.append("r/0", retain=True)])
    await storage.commit([make.append("r/x", retain=True, payload=b"")])
    kept = await storage.collections.retained.find().to_list(None)
    assert len(kept) <= 256
    assert [message.topic for message in await all_retained(storage)] == ["r/0"]
    await storage.close()
