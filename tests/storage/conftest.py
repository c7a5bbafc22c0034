"""``backend`` is one empty database per test, of each kind; ``storage`` is it opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.interface import Storage
from tests.storage.backends import Backend, backends
from tests.storage.samples import Maker
from tests.support.shard_keys import every_write_names_its_shard_key

__all__ = ["every_write_names_its_shard_key"]


KINDS = [pytest.param(name, marks=[pytest.mark.slow] if kind.repeats else []) for name, kind in sorted(backends().items())]


TOGETHER = {"append", "device_index", "durability", "faults", "model", "reads", "sessions"}
"""Of which of these files `make test` asks two writers too: those of what depends on who has written, or has died."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        asked = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        if asked == "mongo-two" and item.path.stem.removeprefix("test_") not in TOGETHER:
            item.add_marker(pytest.mark.slow)


LARGE = pytest.mark.parametrize(
    "backend",
    [pytest.param(kind.values[0], marks=[pytest.mark.slow]) if kind.values[0] == "mongo-two" else kind for kind in KINDS],
    indirect=True,
)
"""For a test of very many rows, which `make test` does not ask two writers about: what they do is what one does."""


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = backends()[request.param](tmp_path)
    backend.breakable = "faulty" in request.fixturenames
    yield backend
    await backend.destroy()


@pytest.fixture
def durable(backend: Backend) -> Backend:
    if not backend.durable:
        pytest.skip(f"{backend.name} keeps nothing over a restart")
    return backend


@pytest.fixture
def faulty(backend: Backend) -> Backend:
    if not backend.faults:
        pytest.skip(f"{backend.name} has no way to fail")
    return backend


@pytest.fixture
async def storage(backend: Backend) -> AsyncIterator[Storage]:
    storage = await backend.open()
    yield storage
    await storage.close()


@pytest.fixture
def make() -> Maker:
    return Maker()
