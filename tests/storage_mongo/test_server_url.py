"""The server that ``TIDELINE_TEST_MONGODB`` names is reached as it says, and through a proxy where a test has one."""

from __future__ import annotations

import pytest

from storage.mongo import MongoStorage
from tests.storage.samples import Maker
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongo_server import MongoServer


@pytest.mark.parametrize("given", ["/?directConnection=true", "/?directConnection=false&retryWrites=true", "/", ""])
async def test_a_running_server_is_reached_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, killable: MongoServer, make: Maker, given: str
) -> None:
    """Also one that announces a replica set, and with it its own address."""
    monkeypatch.setattr(mongo_server, "EXTERNAL", f"mongodb://127.0.0.1:{killable.port}{given}")
    database = mongo_server.new_database()
    proxy = MongoProxy(*mongo_server.address())
    await proxy.start()
    proxy.bodies = []
    storage = MongoStorage(mongo_server.url(database, "socketTimeoutMS=9000", through=proxy.port))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"])])
    await storage.close()
    await proxy.stop()
    assert [body for body in proxy.bodies if body.get("insert") == "store" or "bulkWrite" in body]
    await mongo_server.drop(database)


def test_an_option_is_in_a_url_once() -> None:
    assert mongo_server.with_options("mongodb://h/d") == "mongodb://h/d"
    assert mongo_server.with_options("mongodb://h/d", "a=1&B=2", "", "b=3") == "mongodb://h/d?a=1&b=3"
