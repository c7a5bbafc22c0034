"""What tests of SQLite's own share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.sqlite.backend import SqliteStorage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """A new database, open."""
    storage = SqliteStorage(tmp_path / "t.db")
    await storage.open()
    yield storage
    await storage.close()
