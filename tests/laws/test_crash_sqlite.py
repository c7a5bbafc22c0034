"""The broker on SQLite is killed again and again, and keeps every promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.laws_crash import CrashRun
from tests.support.seeds import seeds


@pytest.mark.parametrize("seed", seeds(1, more=[2]))
def test_killed_at_random_instants(tmp_path: Path, seed: int) -> None:
    run = CrashRun(tmp_path, f"sqlite:///{tmp_path}/laws.db", seed)
    run.run(rounds=6)
    run.check()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10, 16))
def test_killed_at_many_random_instants(tmp_path: Path, seed: int) -> None:
    run = CrashRun(tmp_path, f"sqlite:///{tmp_path}/laws.db", seed)
    run.run(rounds=40)
    run.check()
