"""Messages are looked up by their ids, with a plan that reads no more of the index than them."""

from __future__ import annotations

import pytest

from storage.mongo import MongoStorage
from storage.records import CloseSession, DeviceKey
from tests.storage.samples import Maker, opened
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy

_TELLS_NOTHING = mongo_server.GIVEN == "nx-27017"


@pytest.mark.parametrize("read", ["a page", "pointers"])
async def test_a_page_reads_its_own_messages_and_none_between(database: str, proxy: MongoProxy, make: Maker, read: str) -> None:
    """Ann's are few and far apart among the others of the topic."""
    proxy.bodies = []
    storage = MongoStorage(mongo_server.url(database, through=proxy.port))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"] if n % 100 == 0 else []) for n in range(1000)])
    proxy.bodies.clear()
    found = await (storage.read_inbox("u/ann", 0, 100) if read == "a page" else storage.read_pointers("u/ann", 0))
    assert len(found) == 10
    (query,) = (body["filter"] for body in proxy.bodies if body.get("find") == "store")
    assert set(query) == {"mid"}
    assert set(query["mid"]) == {"$in"}
    assert sorted(query["mid"]["$in"]) == [1 + 100 * n for n in range(10)]
    if not _TELLS_NOTHING:
        explain = {"explain": {"find": "store", "filter": query}, "verbosity": "executionStats"}
        stats = (await storage.collections.store.database.command(explain))["executionStats"]
        assert stats["totalDocsExamined"] == 10
        assert stats["totalKeysExamined"] <= 2 * 10 + 1
    await storage.close()


async def test_a_dead_node_that_stored_nothing_is_finished_without_a_look_through_the_store(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    """Others may have stored millions of messages since: those of a node are found by its number."""
    proxy.bodies = []
    storage, idle = (MongoStorage(mongo_server.url(database, through=proxy.port)) for _ in range(2))
    await storage.open()
    await idle.open()
    await storage.commit(make.appends(100))
    assert storage.cluster is not None
    proxy.bodies.clear()
    await storage.cluster.finish(idle._state.token)
    (query,) = (body["filter"] for body in proxy.bodies if body.get("find") == "store")
    assert query["writer"] == idle._state.number
    assert query["mid"] == {"$gt": 0}
    if not _TELLS_NOTHING:
        explain = {"explain": {"find": "store", "filter": query}, "verbosity": "executionStats"}
        stats = (await storage.collections.store.database.command(explain))["executionStats"]
        assert stats["totalDocsExamined"] == 0
    await idle.close()
    await storage.close()


async def test_the_devices_of_a_node_are_read_in_one_go(database: str, proxy: MongoProxy) -> None:
    """However many there are, and although whoever reads them takes them from it: nothing is sorted or looked through twice."""
    proxy.bodies = []
    storage, holder = (MongoStorage(mongo_server.url(database, through=proxy.port)) for _ in range(2))
    await storage.open()
    await holder.open()
    keys = [DeviceKey(f"u/{n}", "phone") for n in range(1200)]
    await holder.commit([opened(key) for key in keys])
    part, token = storage.cluster, holder._state.token
    assert part is not None
    proxy.bodies.clear()
    found: list[DeviceKey] = []
    async for page in part.held(token):
        found += page
        for key in page[:3]:
            assert await part.take(key, token, lambda device: CloseSession(device.key, device.epoch, False)) is not None
    assert sorted(found) == sorted(keys)
    queries = [body for body in proxy.bodies if body.get("find") == "devices" and "node" in body["filter"]]
    assert [query["filter"] for query in queries] == [{"node": {"$eq": token}}]
    await holder.close()
    await storage.close()
