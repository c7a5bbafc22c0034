"""``database`` is an empty database, ``proxy`` stands in front of its server, ``killable`` is a server of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.storage.samples import Maker
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongo_server import MongoServer, own_server
from tests.support.shard_keys import every_write_names_its_shard_key

__all__ = ["every_write_names_its_shard_key"]


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = mongo_server.new_database()
    yield name
    await mongo_server.drop(name)


@pytest.fixture
async def proxy() -> AsyncIterator[MongoProxy]:
    proxy = MongoProxy(*mongo_server.address())
    await proxy.start()
    yield proxy
    await proxy.stop()


RETRIES = {"off": "retryWrites=false", "on": "retryWrites=true", "on, lost too": "retryWrites=true"}


# The driver sends a write again by itself only where the server keeps a session's writes, which nx-27017 does not.
@pytest.fixture(params=["off"] if mongo_server.GIVEN == "nx-27017" else RETRIES)
async def retries(request: pytest.FixtureRequest, proxy: MongoProxy) -> str:
    """An option of the URL: whether the driver sends a write again whose answer was lost; ``proxy`` may lose that too."""
    proxy.lose_retries = request.param != "on"
    return RETRIES[request.param]


@pytest.fixture
def killable() -> Iterator[MongoServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def make() -> Maker:
    return Maker()
