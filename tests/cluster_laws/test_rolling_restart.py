"""Nodes restarted one after the other under load, as an upgrade does: nothing is lost, and each restart moves a client once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cluster_run import ClusterRun
from tests.support.mongo_server import EXTERNAL, MongoServer, new_database
from tests.support.until import wait_until

pytestmark = [pytest.mark.skipif(bool(EXTERNAL), reason="its server is its own"), pytest.mark.timeout(600)]

LEASE = 10.0
"""The default: with a shorter one a busy machine's nodes take each other for silent."""


class RollingRestart(ClusterRun):
    """Restarts every node, again and again for so many seconds, and once at least."""

    def __init__(self, folder: Path, mongo: MongoServer, seed: int, seconds: float) -> None:
        super().__init__(folder, mongo, new_database(), seed, lease=LEASE)
        self._ends = time.monotonic() + seconds
        self.reconnects: dict[str, int] = {}
        """The most that one restart took, by client."""

    def _round(self, number: int) -> None:
        while not number or time.monotonic() < self._ends:
            for node in self.nodes:
                assert self.world.pulse.wait(100, 60), f"nothing goes on: {self.struck[-3:]}\n{self._logs()}"
                before = {client.name: len(client.drops) for client in self.world.clients}
                self._mark(f"restarted {node.port}")
                node.stop()
                node.start()
                wait_until(lambda: all(client.connected.is_set() for client in self.world.clients), "everybody is back")
                for client in self.world.clients:
                    took = len(client.drops) - before[client.name]
                    self.reconnects[client.name] = max(took, self.reconnects.get(client.name, 0))
            number += 1
        assert max(self.reconnects.values()) <= 1, self.reconnects


def _restart(folder: Path, seed: int, seconds: float) -> None:
    mongo = MongoServer(folder / "mongo")
    mongo.start()
    try:
        run = RollingRestart(folder, mongo, seed, seconds)
        run.run(1)
        run.check()
        for node in run.nodes:
            assert " is dead" not in node.log, f"a node that left within {LEASE:g} s was taken for dead"
    finally:
        mongo.kill()


@pytest.mark.slow
def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    _restart(tmp_path, 21, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_half_an_hour_of_rolling_restarts(tmp_path: Path) -> None:
    _restart(tmp_path, 22, 1800.0)
