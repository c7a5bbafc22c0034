"""Messages are looked up by their ids, with a plan that reads no more of the index than them."""

from __future__ import annotations

import pytest

from storage.mongo import MongoStorage
from tests.storage.samples import Maker
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
