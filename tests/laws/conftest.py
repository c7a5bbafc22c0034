"""``mongo``: a MongoDB server of the test's own, to be killed and frozen. ``url``: an empty database of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.laws_process import free_port
from tests.support.mongo_server import MongoServer, own_server

LEASE_MS = 400
"""How long a restarted broker waits until its predecessor counts as dead."""


@pytest.fixture
def mongo() -> Iterator[MongoServer]:
    with own_server(free_port()) as server:
        yield server


@pytest.fixture
def mongo_url(mongo: MongoServer) -> str:
    return mongo.url("laws", f"tideline_lease_ms={LEASE_MS}")


@pytest.fixture(params=["sqlite", "mongodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/laws.db"
    found: str = request.getfixturevalue("mongo_url")
    return found
