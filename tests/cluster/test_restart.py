"""A broker that is started again over MongoDB: what its predecessor left half done comes before what clients publish now."""

from __future__ import annotations

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from tests.storage.samples import Maker
from tests.support import mongo_server
from tests.support.broker import running
from tests.support.mongo_proxy import MongoProxy


async def test_a_half_done_group_is_whole_before_a_client_may_publish() -> None:
    database, make = mongo_server.new_database(), Maker()
    proxy = MongoProxy(*mongo_server.address())
    await proxy.start()
    proxy.older = True
    former = MongoStorage(mongo_server.url(database, through=proxy.port))
    await former.open()
    proxy.pass_on = lambda command: command != ("insert", "sync")
    with pytest.raises(StorageUnavailable):
        await former.commit([make.append("a", ["u/ann"]) for _ in range(3)])
    await former.close()  # as one whose last group others must finish
    async with running(mongo_server.url(database)) as broker:
        assert await broker.server.storage.inbox_head("u/ann") == 3
    await proxy.stop()
    await mongo_server.drop(database)
