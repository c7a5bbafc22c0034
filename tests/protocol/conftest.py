"""``broker`` is a running broker, of each storage that is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.broker import Broker, running

STORES = ["memory"]
try:
    from storage.sqlite import SqliteStorage  # noqa: F401
except ImportError:
    pass
else:
    STORES.append("sqlite")


@pytest.fixture(params=[4, 5], ids=["v3.1.1", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with running() as started:
        yield started


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage, of each kind."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/broker.db"


@pytest.fixture
async def stored(url: str) -> AsyncIterator[Broker]:
    """A broker on each kind of storage."""
    async with running(url) as started:
        yield started
