"""URLs, servers that are absent or frozen, closing in the middle, and looking at a database beside its broker."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from mongoengine import connection as registry
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect

from storage.cluster import Change, Parcel
from storage.ending import end
from storage.errors import NoDatabase, StorageUnavailable, StorageUnusable
from storage.factory import open_url
from storage.mongo import MongoStorage, late
from storage.mongo.connection import Address, storage_errors
from storage.mongo.documents import DOCUMENTS, Collections
from storage.mongo.intents import Adopted, announce
from storage.records import Append, DeviceKey, MarkRead, OpenSession, Subscribe
from tests.storage.samples import Maker, collect, everything, opened, subscribe
from tests.storage_mongo.groups import TOPICS, USERS, check_laws, content, prepare
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy
from tests.support.mongo_server import MongoServer

ANN = DeviceKey("u/ann", "phone")


# --- URLs ----------------------------------------------------------------------------------------------------------


def test_our_options_are_taken_out_of_the_url() -> None:
    address = Address.parse("mongodb://u:p%40@h1:1,h2:2/tide%2Dline?replicaSet=r&tideline_lease_ms=1500&socketTimeoutMS=7")
    assert address.url == "mongodb://u:p%40@h1:1,h2:2/tide%2Dline?replicaSet=r&socketTimeoutMS=7"
    assert (address.database, address.lease_ms) == ("tide-line", 1500)
    assert "socketTimeoutMS" not in address.options
    assert address.options["connectTimeoutMS"] == 3000
    assert Address.parse("mongodb://h/db").lease_ms == 10_000
    assert Address.parse("mongodb://h/db?tideline_lease_ms=200").url == "mongodb://h/db"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mongodb://h:1", "names no database"),
        ("mongodb://h:1/?replicaSet=r", "names no database"),
        ("mongodb://h/db?tideline_lease_ms=soon", "tideline_lease_ms=soon"),
        ("mongodb://h/db?tideline_lease_ms=10", "at least 200"),
        ("mongodb://h/db?tideline_lease=500", "tideline_lease in the mongodb url"),
        ("mongodb://ann:a/secret@h/db", "%2F"),
        ("mongodb://ann:secret@h/d.b", "has '.' in it"),
        ("mongo://ann:secret@h/db", "scheme is 'mongo'"),
        ("ann:secret@h/db", "no scheme"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_secret(url: str, told: str) -> None:
    with pytest.raises(StorageUnusable, match=told) as refused:
        open_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mongodb://ann:secret@h:99999/db", "65535"),
        ("mongodb://ann:secret@@h/db", "escaped"),
        ("mongodb://ann:secret@h/db?replicaset_=r", "option 'replicaset_' in the url: Unknown option"),
        ("mongodb://ann:secret@h/db?socketTimeoutMS=soon", "sockettimeoutms must be"),
    ],
)
async def test_a_url_that_the_driver_refuses_is_unusable_and_keeps_its_secret(url: str, told: str) -> None:
    storage = MongoStorage(url)
    with pytest.raises(StorageUnusable, match=told) as refused:
        await storage.open()
    assert "secret" not in str(refused.value)


# --- servers that do not answer ------------------------------------------------------------------------------------


async def test_an_absent_server_is_told_within_seconds_without_blocking_the_loop() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        storage = MongoStorage(f"mongodb://ann:secret@127.0.0.1:{free.getsockname()[1]}/db")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)  # not a wait: a pulse that must not stop
                ticks += 1

        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        with pytest.raises(StorageUnavailable) as away:
            await storage.open()
        took = time.monotonic() - began
        ticking.cancel()
    assert took < 10
    assert ticks > took / 0.01 / 4
    assert "secret" not in str(away.value)
    with pytest.raises(StorageUnavailable, match="closed"):
        await storage.commit([])


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="freezes the server, which must be the test's own")
async def test_a_frozen_server_takes_the_group_when_it_thaws(killable: MongoServer, make: Maker) -> None:
    storage = MongoStorage(killable.url("tideline", "socketTimeoutMS=300&serverSelectionTimeoutMS=300&connectTimeoutMS=300"))
    await storage.open()
    group = [make.append("a", ["u/ann"]) for _ in range(5)]
    killable.freeze()
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await storage.commit(group)
    killable.thaw()
    for _ in range(20):  # the driver may meet the connections that it gave up
        try:
            await storage.commit(group)
            break
        except StorageUnavailable:
            continue
    assert [a.message.seq for a in group] == [1, 2, 3, 4, 5]
    assert await check_laws(storage, [a.message.id for a in group]) == 5
    await storage.close()


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="freezes the server, which must be the test's own")
async def test_closing_does_not_wait_for_a_frozen_server_for_ever(killable: MongoServer, make: Maker) -> None:
    storage = MongoStorage(killable.url("tideline", "socketTimeoutMS=300&serverSelectionTimeoutMS=300&connectTimeoutMS=300"))
    await storage.open()
    await storage.commit([make.append()])
    killable.freeze()
    async with asyncio.timeout(20):
        await storage.close()
    killable.thaw()


async def test_a_cancelled_commit_is_finished_by_close(database: str, proxy: MongoProxy, make: Maker) -> None:
    storage = MongoStorage(mongo_server.url(database, through=proxy.port))
    await storage.open()
    storing, go = asyncio.Event(), asyncio.Event()

    def hold(command: Command) -> bool:
        if command.name == "insert" and command.collection == "store":
            storing.set()
        return True

    proxy.pass_on, proxy.held = hold, lambda: go.wait() if storing.is_set() and not go.is_set() else None
    commit = asyncio.create_task(storage.commit([make.append("a", ["u/ann"])]))
    await storing.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    closing = asyncio.create_task(storage.close())
    go.set()
    await closing
    again = MongoStorage(mongo_server.url(database))
    await again.open()
    assert await check_laws(again, [1]) == 1
    await again.close()


async def test_a_closed_storage_says_so(database: str, make: Maker) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        await storage.commit([make.append()])
    with pytest.raises(StorageUnavailable, match="closed"):
        await storage.read_tail(0, 1)


async def test_writes_are_a_majoritys_and_journalled_and_reads_a_majoritys(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    """Law 1, as far as a server that is no replica set can show it: what is asked for, of every command, on the wire."""
    proxy.bodies = []
    storage = MongoStorage(mongo_server.url(database, through=proxy.port))
    await storage.open()
    await storage.commit(await prepare(storage, make))
    await storage.prune_conversation("a", 2)
    await everything(storage, TOPICS, USERS)
    await storage.close()
    writes = [body for body in proxy.bodies if next(iter(body)) in WRITES]
    reads = [body for body in proxy.bodies if next(iter(body)) in ("find", "aggregate", "count")]
    assert len(writes) > 10
    assert len(reads) > 10
    assert [body for body in writes if (c := body["writeConcern"])["w"] != "majority" or not c["j"] or not c["wtimeout"]] == []
    assert [body for body in reads if body["readConcern"] != {"level": "majority"}] == []


# --- the schema, and looking at it ---------------------------------------------------------------------------------


async def test_a_reader_beside_the_broker_sees_all_and_changes_nothing(database: str, make: Maker) -> None:
    url = mongo_server.url(database)
    broker = MongoStorage(url)
    await broker.open()
    await broker.commit(await prepare(broker, make))
    await broker.prune_conversation("a", 2)
    before = await content(broker)
    reader = open_url(url, read_only=True)
    assert isinstance(reader, MongoStorage)
    await reader.open()
    assert await everything(reader, TOPICS, USERS) == await everything(broker, TOPICS, USERS)
    assert await collect(reader.conversations()) == await collect(broker.conversations())
    assert await collect(reader.inboxes()) == await collect(broker.inboxes())
    with pytest.raises(StorageUnavailable, match="reading only"):
        await reader.commit([make.append()])
    with pytest.raises(StorageUnavailable, match="reading only"):
        await reader.prune_inbox("u/ann", 5)
    later = make.append("a", ["u/ann"])
    await broker.commit([later])
    assert await reader.inbox_head("u/ann") == later.inbox_seqs[0]
    await reader.close()
    assert before != await content(broker)
    await broker.close()


async def test_a_reader_of_an_empty_database_is_told_so_and_creates_nothing(database: str) -> None:
    reader = MongoStorage(mongo_server.url(database), read_only=True)
    with pytest.raises(NoDatabase, match="nothing of tideline's"):
        await reader.open()
    await reader.close()
    async with AsyncMongoClient[dict[str, object]](mongo_server.url(database)) as client:
        assert await client[database].list_collection_names() == []
    broker = MongoStorage(mongo_server.url(database))
    await broker.open()
    assert await broker.last_id() == 0
    await reader.open()
    assert await collect(reader.devices()) == []
    await reader.close()
    await broker.close()


async def test_a_later_schema_is_not_touched(database: str) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.collections.meta.update_one({"_id": "schema"}, {"$set": {"version": 99}})
    await storage.close()
    with pytest.raises(StorageUnusable, match="schema 99"):
        await storage.open()


async def test_the_documents_declare_every_field_and_index(database: str, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written raw reads through mongomotor, and no field of it is unknown there."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    group = await prepare(storage, make)
    await storage.commit(group)
    await storage.prune_inbox("u/ann", 2)
    await announce(storage._state, [Change("-", "u/ann", "phone", "a")], [Adopted(7, 0)])
    await late.tell(storage._state, [7])
    cluster = storage.cluster
    assert cluster is not None
    await cluster.send({cluster.me.token: Parcel()})
    assert await cluster.lease("jobs")
    connection = storage._connection
    assert connection is not None
    monkeypatch.setitem(registry._connections, registry.DEFAULT_CONNECTION_NAME, connection.client)
    monkeypatch.setitem(registry._dbs, registry.DEFAULT_CONNECTION_NAME, storage.collections.store.database)
    for document in DOCUMENTS:
        monkeypatch.setattr(document, "_collection", None)
    assert Collections(*(document._get_collection() for document in DOCUMENTS)) == storage.collections
    for document, collection in zip(DOCUMENTS, storage.collections, strict=True):
        declared = set(document._db_field_map.values())
        raw = await collection.find().to_list(None)
        assert raw or collection.name in ("lease", "divisions"), collection.name
        for one in raw:
            assert set(one) <= declared, collection.name
        assert await document.objects.count() == len(raw)
        indexes = {tuple(key for key, _ in one["key"]) for one in (await collection.index_information()).values()}
        assert {tuple(key for key, _ in spec["fields"]) for spec in document._meta["index_specs"]} <= indexes
    stored = {document.mid: document async for document in DOCUMENTS[0].objects}
    assert stored[2].recipients == ["u/ann", "u/bob"]
    assert stored[2].payload == b"payload 2"
    await storage.close()


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
async def test_a_name_that_cannot_be_a_key_is_refused_alone(database: str, make: Maker, name: str) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    bad: list[Append | OpenSession] = [
        make.append(name),
        make.append(user=name),
        make.append(to=[name]),
        opened(DeviceKey("u/x", name)),
    ]
    more: list[MarkRead | Subscribe] = [MarkRead("u/ann", name, 1), subscribe(ANN, name)]
    good = make.append(to=["u/ann"])
    await storage.commit([opened(ANN), *bad, *more, good])
    assert all(op.error is not None for op in [*bad, *more])
    assert (good.message.seq, list(good.inbox_seqs)) == (1, [1])
    await storage.close()


# --- cancelled -------------------------------------------------------------------------------------------------------


async def _swallows(error: Exception | None) -> None:
    """What the driver does now and then with a cancellation that meets the end of its work."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if error is not None:
            raise error from None


async def _twice(error: Exception | None) -> None:
    for _ in range(2):
        try:
            with storage_errors():
                await _swallows(error)
        except StorageUnavailable:
            continue


@pytest.mark.parametrize("error", [AutoReconnect("connection is already closed"), None], ids=["as an error", "as an answer"])
async def test_a_cancellation_that_the_driver_swallows_ends_its_task(error: Exception | None) -> None:
    task = asyncio.create_task(_twice(error))
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)
    assert done, "it tries again"
    assert task.cancelled()


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="freezes the server, which must be the test's own")
async def test_who_waits_for_a_frozen_server_ends_whenever_it_is_told_to(killable: MongoServer) -> None:
    """Whatever the driver is at: connecting, sending, waiting for the answer."""
    storage = MongoStorage(killable.url("tideline", "tideline_lease_ms=60000"))
    await storage.open()
    killable.freeze()
    for turns in range(60):
        task = asyncio.create_task(storage.inbox_bounds("u/ann"))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await end([task])
        assert task.cancelled()
    killable.thaw()
    await storage.close()


async def test_a_cancelled_task_still_learns_what_went_wrong_while_it_cleans_up() -> None:
    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(StorageUnavailable), storage_errors():
                raise AutoReconnect("away")
            with storage_errors():
                await asyncio.sleep(0)

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
