"""The broker on MongoDB, and MongoDB itself, are killed again and again, and every promise is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.laws_crash import CrashRun
from tests.support.mongo_server import MongoServer
from tests.support.seeds import seeds


@pytest.mark.parametrize("seed", seeds(1, more=[2]))
def test_killed_at_random_instants(tmp_path: Path, mongo: MongoServer, mongo_url: str, seed: int) -> None:
    run = CrashRun(tmp_path, mongo_url, seed, mongo)
    run.run(rounds=3)
    run.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10, 14))
def test_killed_at_many_random_instants(tmp_path: Path, mongo: MongoServer, mongo_url: str, seed: int) -> None:
    run = CrashRun(tmp_path, mongo_url, seed, mongo)
    run.run(rounds=40)
    run.check()
