"""The engines that the suite of cases runs over."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from plugins.search.engine import Engine
from plugins.search.fts5 import Fts5Engine
from plugins.search.meili import MeiliEngine
from storage.memory import MemoryStorage
from tests.search.meili_stub import MeiliStub

REAL = "TIDELINE_TEST_MEILISEARCH"


@pytest.fixture
def stub() -> Iterator[MeiliStub]:
    """A strict stand-in for a Meilisearch server."""
    with MeiliStub() as stub:
        yield stub


@pytest.fixture(params=["embedded", "tantivy", "meilisearch-stub", "meilisearch-real"])
def make_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Engine]:
    """Makes engines over one and the same index, not opened."""
    if request.param == "embedded":
        return lambda: Fts5Engine(tmp_path / "search.db")
    if request.param == "tantivy":
        pytest.importorskip("tantivy")
        from plugins.search.tantivy_engine import TantivyEngine

        store = request.getfixturevalue("storage") if "storage" in request.fixturenames else MemoryStorage()
        return lambda: TantivyEngine(tmp_path / "search.tantivy", store)
    if request.param == "meilisearch-stub":
        stub: MeiliStub = request.getfixturevalue("stub")
        return lambda: MeiliEngine(stub.url, stub.key)
    url = os.environ.get(REAL)
    if not url:
        pytest.skip(f"{REAL} names no server")
    name = f"tideline_test_{uuid.uuid4().hex}"
    return lambda: MeiliEngine(url, os.environ.get(f"{REAL}_KEY", ""), name=name)


@pytest.fixture
async def engine(make_engine: Callable[[], Engine]) -> AsyncIterator[Engine]:
    """An open, empty engine."""
    engine = make_engine()
    await engine.open()
    yield engine
    await engine.close()
    cleaner = make_engine()
    if isinstance(cleaner, MeiliEngine):
        await cleaner.remove()  # a real server keeps nothing of ours
    await cleaner.close()
