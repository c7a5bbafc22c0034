"""Seeds of random runs: some in every `make test`, the others in `make test-all`, which has the time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def seeds(*always: Any, more: Iterable[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`; tuples are several at once."""
    late = (one if isinstance(one, tuple) else (one,) for one in more)
    return [*always, *(pytest.param(*one, marks=pytest.mark.slow) for one in late)]
