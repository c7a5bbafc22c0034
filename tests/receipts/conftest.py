"""A broker with the ledger, in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import Site, passwords, site, sites

__all__ = ["passwords", "sites"]

RECEIPTS: dict[str, Any] = {"receipts": {"resolution_seconds": 0.05}}


@pytest.fixture(params=["memory", "sqlite"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/t.db"
    async with site(url, plugins=RECEIPTS) as made:
        yield made
