"""The laws over three nodes and one database, under SIGKILL and SIGSTOP of nodes and of the database, behind a balancer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster_run import ClusterRun
from tests.support.mongo_server import EXTERNAL, MongoServer, new_database

pytestmark = [pytest.mark.skipif(bool(EXTERNAL), reason="kills its server"), pytest.mark.timeout(600)]


def _run(folder: Path, seed: int, rounds: int) -> None:
    mongo = MongoServer(folder / "mongo")
    mongo.start()
    try:
        run = ClusterRun(folder, mongo, new_database(), seed)
        run.run(rounds)
        run.check()
    finally:
        mongo.kill()


def test_no_law_is_broken(tmp_path: Path) -> None:
    _run(tmp_path, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_no_law_is_broken_by_three_hundred_strikes(tmp_path: Path, seed: int) -> None:
    _run(tmp_path, seed, 30)
