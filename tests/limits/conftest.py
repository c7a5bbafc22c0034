"""Both versions of the protocol."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[4, 5], ids=["v3.1.1", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found
