"""Each kind of storage by its URL, as empty as a test wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import mongo_server


@asynccontextmanager
async def storage_url(kind: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a new database: ``sqlite`` (in a folder), ``memory`` or ``mongodb``, where a node that is silent counts as
    dead after a second."""
    if kind != "mongodb":
        yield {"sqlite": f"sqlite:///{folder}/t.db", "memory": "memory://"}[kind]
        return
    database = mongo_server.new_database()
    yield mongo_server.url(database, "tideline_lease_ms=1000")
    await mongo_server.drop(database)


@pytest.fixture(params=["sqlite", "mongodb"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """For tests that hold in either."""
    async with storage_url(request.param, tmp_path) as made:
        yield made
