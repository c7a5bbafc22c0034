"""Seeds and examples of random runs: some in every `make test`, the others in `make test-all`, which has the time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

_EXAMPLES = int(os.environ.get("TIDELINE_EXAMPLES", "100"))
"""Of each hundred of Hypothesis's examples, how many are tried: `make test` says fewer, which are others each time."""
_ENOUGH = 8


def examples(whole: int) -> int:
    """How many examples are tried of so many."""
    return max(min(whole, _ENOUGH), whole * _EXAMPLES // 100)


def seeds(*always: Any, more: Iterable[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`; tuples are several at once."""
    late = (one if isinstance(one, tuple) else (one,) for one in more)
    return [*always, *(pytest.param(*one, marks=pytest.mark.slow) for one in late)]
