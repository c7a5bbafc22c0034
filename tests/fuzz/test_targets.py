"""The targets take the bytes that a fuzzer begins with: else it says nothing of what it makes of them."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds(name: str) -> None:
    target, seeds = TARGETS[name]
    for seed in seeds:
        target(seed)
