"""``cluster`` is one empty database per test, of each kind that several nodes can open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster_storage.backends import BACKENDS, ClusterBackend
from tests.storage.samples import Maker
from tests.support.shard_keys import every_write_names_its_shard_key

__all__ = ["every_write_names_its_shard_key"]


@pytest.fixture(params=sorted(BACKENDS))
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterBackend]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    await backend.destroy()


@pytest.fixture
def make() -> Maker:
    return Maker()
