"""``chat`` is a broker with the plugin `recall` in each kind of storage, ``tour`` one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import Site, site
from tests.support.storages import storage_url

TOPIC = "chat/room"
NO_SUBSCRIBERS, NOT_AUTHORIZED, SPECIFIC = 0x10, 0x87, 0x83


@pytest.fixture(params=["sqlite", "memory", "mongodb"])
async def chat(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with storage_url(request.param, tmp_path) as url, site(url, plugins={"recall": {}}) as made:
        yield made


@pytest.fixture
async def tour() -> AsyncIterator[Site]:
    async with site(plugins={"recall": {}}) as made:
        yield made


async def ids_of(broker: Any) -> list[int]:
    """The ids of what is stored of the topic."""
    return [message.id for message in await broker.server.storage.read_conversation(TOPIC)]
