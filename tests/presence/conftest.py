"""A broker that tells who is online, in each kind of storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import mongo_server


@pytest.fixture(params=["sqlite", "mongodb"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/t.db"
        return
    database = mongo_server.new_database()
    yield mongo_server.url(database, "tideline_lease_ms=1000")
    await mongo_server.drop(database)
