"""What is finished of a dead node, case by case: it ended between two particular writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from storage.cluster import ENDED, REMOVE
from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.mongo import sweep as sweeping
from storage.mongo.sweep import KEPT, sweep
from storage.records import Append, CloseSession, DeviceKey, Operation, Release, Unsubscribe
from tests.storage.samples import START, Maker, all_retained, collect, fields_of, opened, subscribe
from tests.storage_mongo.groups import check_laws, fail_over
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


async def _open(database: str, proxy: MongoProxy | None = None) -> MongoStorage:
    """A node, which finds those before it dead."""
    options = LEASE + "&serverSelectionTimeoutMS=2000"
    if proxy is not None:
        proxy.older = True  # its group is cut between the store and the inboxes
    storage = MongoStorage(mongo_server.url(database, options, through=proxy.port if proxy else 0))
    await storage.open()
    await fail_over(storage)
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
    messages[2].content = b"as it was sent".ljust(16)
    storage = await _committed_until(database, proxy, [opened(ANN), old], list(messages), "insert", "sync")
    assert await check_laws(storage, [2, 3, 4]) == 4
    device = await storage.device(ANN)
    assert device is not None
    assert device.received == {7}
    (retained,) = await all_retained(storage)
    assert fields_of(retained)[:2] == (3, "r")  # type: ignore[index]
    assert (retained.payload, retained.properties, retained.expires, retained.retain) == (b"new", b"\1x", START + 9, True)
    again = make.append("k", idempotency_key="key", idempotency_until=START + 1000, payload=b"changed")
    again.content = messages[2].content
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
    await storage.close()


async def test_entries_for_one_device_do_not_hide_what_is_missing(database: str, proxy: MongoProxy, make: Maker) -> None:
    """The group has put retained messages behind its first entry; the entry after them is missing."""
    kept = make.append("r", retain=True)
    first, second = make.append("a", ["u/ann"]), make.append("b", ["u/bob", "u/ann"])
    storage = await _open(database, proxy)
    await storage.commit([opened(ANN), kept, *make.appends(2, to=["u/ann"])])
    group: list[Operation] = [first, subscribe(ANN, "r", retained=[kept.message]), second]
    proxy.lose_write(1, "sync")  # the inboxes are written, and nobody is told
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    await proxy.stop()
    await storage.close()
    direct = MongoStorage(mongo_server.url(database), read_only=True)
    await direct.open()
    await direct.collections.sync.delete_one({"user": "u/ann", "seq": 5})  # as if it had never been written
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


async def test_what_several_nodes_left_is_finished(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Two of them were cut off, and a third has written behind them."""
    other = MongoProxy(*mongo_server.address())
    await other.start()
    for name, one in (("first", proxy), ("second", other)):
        storage = await _open(database, one)
        make.number = storage._state.number
        await storage.commit(_appends(make, name, 1))
        await _crash(storage, one, lambda s=storage, n=name: s.commit(_appends(make, n, 3)), "insert", "sync")  # type: ignore[misc]
    storage = await _open(database)
    make.number = storage._state.number
    for _ in range(3):
        await storage.commit(_appends(make, "third", 2))
    await storage.close()
    with suppress(StorageUnavailable):
        await other.stop()
    storage = await _open(database)
    assert await check_laws(storage) == 2 + 6 + 6
    await storage.close()


def _appends(make: Maker, device: str, count: int) -> list[Append]:
    return [make.append("a", ["u/ann"], device=device) for _ in range(count)]


async def test_marks_of_what_is_gone_are_dropped_in_time(database: str, make: Maker) -> None:
    storage = await _open(database)
    until = await storage._state.now()
    await storage.commit(
        [make.append("r", retain=True), opened(ANN), subscribe(ANN, "a"), make.append(received=(ANN, 7), qos=2)]
    )
    await storage.commit([make.append(idempotency_key="k", idempotency_until=until)])
    await storage.commit([make.append("r", retain=True, payload=b""), Release(ANN, 7), Unsubscribe(ANN, 1, ["a"])])
    await storage.commit([CloseSession(ANN, 1, True)])
    c = storage.collections
    marks = (c.retained, "gone_at"), (c.devices, "gone_at"), (c.claims, "claimed_at"), (c.idempotency, "until")
    for collection, field in marks:
        assert await collection.count_documents({field: {"$gt": 0}}) == 1
    await sweep(storage._state)
    for collection, field in marks:
        assert await collection.count_documents({}) == 1, "it is young"
        await collection.update_many({}, {"$inc": {field: -KEPT}})
    storage._state.sweep_at = 0
    await sweep(storage._state)
    for collection, _ in marks:
        assert await collection.count_documents({}) == 0
    await storage.close()


async def test_more_last_changes_than_fit_into_one_document_are_told_after_a_crash(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    """A session with many long filters ends, and the node with it before it tells that."""
    filters = [f"{n:05}{'x' * 60_000}" for n in range(300)]
    storage = await _open(database, proxy)
    for start in range(0, len(filters), 50):
        await storage.commit([opened(ANN), subscribe(ANN, *filters[start : start + 50])])
    await storage.commit([Unsubscribe(ANN, 1, filters[:1])])
    proxy.pass_on = lambda command: command != ("insert", "routes")
    with pytest.raises(StorageUnavailable):
        await storage.commit([CloseSession(ANN, 1, True)])
    await proxy.stop()
    await storage.close()
    storage = await _open(database)
    assert storage.cluster is not None
    told = [change for route in await storage.cluster.routes_after(0) for change in route.changes]
    assert [change.filter for change in told if change.kind == REMOVE] == filters
    assert told[-1].kind == ENDED
    await storage.close()


async def test_as_many_marks_are_dropped_as_are_made(database: str, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, so that no commit waits long: whoever makes many is not followed by a heap of them."""
    monkeypatch.setattr(sweeping, "_AT_ONCE", 2)
    storage = await _open(database)
    keyed = [make.append("k", idempotency_key=f"key {n}", idempotency_until=START) for n in range(5)]
    await storage.commit(list(keyed))
    left = [await storage.collections.idempotency.count_documents({})]
    for _ in range(4):
        await sweep(storage._state)
        left.append(await storage.collections.idempotency.count_documents({}))
    assert left == [5, 3, 1, 0, 0]
    assert storage._state.sweep_at > 0
    await storage.close()


@pytest.mark.parametrize("cut", [("insert", "sync"), ("update", "store"), ("update", "retained")])
async def test_what_a_dead_node_recalled_is_recalled(
    database: str, proxy: MongoProxy, make: Maker, cut: tuple[str, str]
) -> None:
    """Whichever write it came to: the message that recalls is in the store, and with it what it recalls."""
    secret, kept = make.append("a", ["u/ann"], retain=True), make.append("a", ["u/ann"])
    recall = make.append("a", ["u/ann"], b"", recalls=[secret.message.id])
    storage = await _committed_until(database, proxy, [secret, kept], [recall], *cut)
    assert [m.recalled for m in await storage.read_conversation("a")] == [True, False, False]
    assert await all_retained(storage) == []
    assert [entry.seq for entry in await storage.read_inbox("u/ann", 0, 9)] == [1, 2, 3]
    await storage.close()


async def test_a_retained_message_that_comes_after_its_recall_does_not_stay(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    """Its node was cut off between the store and the retained messages; another one recalls it, and the first one goes on."""
    slow = MongoStorage(mongo_server.url(database, "serverSelectionTimeoutMS=2000", through=proxy.port))
    other = MongoStorage(mongo_server.url(database))
    await slow.open()
    await other.open()
    secret = make.append("a", [], b"secret", retain=True)
    cut = True
    proxy.pass_on = lambda command: not (cut and command == ("update", "retained"))
    with pytest.raises(StorageUnavailable):
        await slow.commit([secret])
    await other.commit([make.append("a", [], b"", recalls=[secret.message.id])])
    cut = False
    await slow.commit([secret])
    assert await all_retained(other) == []
    assert [m.payload for m in await other.read_conversation("a")] == [b"", b""]
    await slow.close()
    await other.close()
