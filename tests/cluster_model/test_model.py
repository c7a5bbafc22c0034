"""The laws across nodes, by a model: whatever clients do and whatever befalls the nodes, the checker finds nothing.

Real brokers in one process over one database in memory, and in virtual time, so that an example is a minute of a cluster's
life. One that fails prints its number, which plays the same way again (`python -m tests.cluster_model`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.cluster_model.checker import faults
from tests.cluster_model.plays import play_of
from tests.cluster_model.restarts import restarts_of
from tests.cluster_model.world import Play, played

PLAYS = int(os.environ.get("TIDELINE_PLAYS", "100"))
"""The same ones each time: `make test` plays half of these, `make mutants` as many as its faults need."""
MORE = 2000
RESTARTS = min(40, PLAYS * 2 // 5)


def _judge(seed: int, of: Callable[[int], Play]) -> None:
    found = faults(played(of(seed)))
    assert not found, f"{found} in play {seed}, which is {seed + 1} of them: {of(seed)}"


@pytest.mark.timeout(280)
def test_the_laws_hold_across_nodes() -> None:
    for seed in range(PLAYS):
        _judge(seed, play_of)


def test_the_laws_hold_over_rolling_restarts() -> None:
    for seed in range(RESTARTS):
        _judge(seed, restarts_of)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_laws_hold_across_nodes_for_long() -> None:
    found = {seed: lines for seed in range(PLAYS, PLAYS + MORE) if (lines := faults(played(play_of(seed))))}
    found |= {-seed: lines for seed in range(RESTARTS, MORE) if (lines := faults(played(restarts_of(seed))))}
    assert found == {}
