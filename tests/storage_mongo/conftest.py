"""``database`` is an empty database, ``proxy`` stands in front of its server, ``killable`` is a server of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.storage.samples import Maker
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongo_server import MongoServer


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


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[MongoServer]:
    server = MongoServer(tmp_path / "mongo")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make() -> Maker:
    return Maker()
