"""Both versions of the protocol, and the event loop that `tideline serve` uses."""

from __future__ import annotations

import pytest

from tests.protocol.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture(params=[4, 5], ids=["v3.1.1", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found
