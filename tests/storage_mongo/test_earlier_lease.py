"""A database that a broker of an earlier version serves, or served: serving alone and serving shared exclude each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from storage.cluster import DEAD, Node
from storage.errors import StorageInUse
from storage.mongo import MongoStorage
from storage.records import DeviceKey
from tests.storage_mongo.test_process import name_of_ended
from tests.support import mongo_server

TTL = 0.8
LONG = 12.0
"""The TTL of a lease of which a part is waited for, and never all of it."""
NEVER = 600.0
"""The TTL of one that no test waits for."""
ANN, BOB, CAT = DeviceKey("u/ann", "phone"), DeviceKey("u/bob", "pad"), DeviceKey("u/cat", "lap")


@pytest.fixture
async def raw(database: str) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    async with AsyncMongoClient[dict[str, Any]](mongo_server.url(database)) as client:
        yield client[database]


async def held(raw: AsyncDatabase[dict[str, Any]], **changes: object) -> None:
    """The lease as the earlier version left it."""
    lease: dict[str, object] = {
        "owner": "host:7:ab",
        "process": "another machine",
        "token": 5,
        "shared": 0,
        "beat": 9,
        "ttl": TTL * 1000,
    }
    lease |= {"expires_at": 0, "done": 41, "late": [], "settled": 0, **changes}
    await raw.meta.insert_one({"_id": "schema", "version": 1})
    await raw.lease.insert_one({"_id": "serving", **lease})


async def renews(raw: AsyncDatabase[dict[str, Any]]) -> bool:
    """What that version's broker does; whether it still has the lease."""
    result = await raw.lease.update_one({"_id": "serving", "owner": "host:7:ab", "token": 5}, {"$inc": {"beat": 1}})
    return bool(result.matched_count)


def url(database: str) -> str:
    return mongo_server.url(database, f"tideline_lease_ms={TTL * 1000:.0f}")


async def former(storage: MongoStorage) -> Node | None:
    assert storage.cluster is not None
    return next((node for node in await storage.cluster.nodes() if node.token == 5), None)


async def test_a_node_is_refused_while_a_broker_serves_alone(database: str, raw: AsyncDatabase[dict[str, Any]]) -> None:
    await held(raw)

    async def keep() -> None:
        while True:
            assert await renews(raw)
            await asyncio.sleep(TTL / 8)  # not a wait: the broker's own pause

    keeping = asyncio.create_task(keep())
    with pytest.raises(StorageInUse, match=r"served by host:7:ab, a broker of an earlier version, which serves alone"):
        await MongoStorage(url(database)).open()
    assert not keeping.done()
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert await raw.nodes.count_documents({}) == 0


@pytest.mark.parametrize("process", ["another machine", "of this machine"])
async def test_one_that_died_is_a_dead_node_and_its_devices_are_held(
    database: str, raw: AsyncDatabase[dict[str, Any]], process: str
) -> None:
    known = process == "of this machine"
    await held(raw, **({"process": name_of_ended(), "ttl": LONG * 1000} if known else {}))
    fields = {
        "generation": 1,
        "epoch": 3,
        "created_at": 0,
        "offset": 0,
        "cursor": 0,
        "inflight": b"",
        "received": b"",
        "v": 5 << 40,
    }
    for key, expiry, will, expires_at in ((ANN, 60, None, 0), (BOB, 60, None, 99), (CAT, 0xFFFFFFFF, b"will", 0)):
        device = {
            "user": key.user,
            "client": key.client_id,
            "expiry": expiry,
            "expires_at": expires_at,
            "will": will,
            "will_at": 0,
        }
        await raw.devices.insert_one({"_id": f"{key.user}\0{key.client_id}", **device, **fields})
    began = time.monotonic()
    storage = MongoStorage(url(database))
    await storage.open()
    took = time.monotonic() - began
    assert took < LONG if known else took >= TTL
    assert not await renews(raw)
    node = await former(storage)
    assert node is not None
    assert (node.state, node.number, node.done) == (DEAD, 0, 41)
    assert storage.cluster is not None
    assert storage.cluster.me.token > 5
    assert storage.cluster.me.number == 1
    found = [key async for page in storage.cluster.held(5) for key in page]
    assert sorted(found) == [ANN, CAT]
    assert (await raw.meta.find_one({"_id": "schema"}) or {})["version"] == 2
    await storage.close()


async def test_one_that_was_stopped_has_left(database: str, raw: AsyncDatabase[dict[str, Any]]) -> None:
    await held(raw, owner="", settled=1, ttl=NEVER * 1000)
    storage = MongoStorage(url(database))
    await storage.open()  # it waits for no TTL
    assert await former(storage) is None
    assert storage.cluster is not None
    assert (storage.cluster.me.number, storage.cluster.me.done) == (0, 41)
    assert storage.cluster.me.token > 5
    await storage.close()


async def test_several_nodes_may_open_it_at_once(database: str, raw: AsyncDatabase[dict[str, Any]]) -> None:
    await held(raw)
    storages = [MongoStorage(url(database)) for _ in range(3)]
    await asyncio.gather(*(storage.open() for storage in storages))
    assert await former(storages[0]) is not None
    numbers = {storage.cluster.me.number for storage in storages if storage.cluster is not None}
    assert numbers == {1, 2, 3}
    for storage in storages:
        await storage.close()
