"""The database's clock: what deadlines go by, so that no node's own clock matters."""

from __future__ import annotations

import time
from datetime import UTC
from typing import Any

from pymongo import AsyncMongoClient

from storage.errors import StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw


class DatabaseClock:
    """Asks the server, and remembers how far its clock is from this machine's uptime."""

    def __init__(self, client: AsyncMongoClient[Raw]) -> None:
        self._client = client
        self._offset = 0

    async def read(self) -> int:
        """The server's clock, ms, at a moment within the call."""
        with storage_errors():
            answer: dict[str, Any] = await self._client.admin.command("hello")
        local_time = answer.get("localTime")
        if local_time is None:
            raise StorageUnavailable("mongodb: the server does not tell its time")
        now = int(local_time.replace(tzinfo=UTC).timestamp() * 1000)
        self._offset = now - _uptime()
        return now

    def estimate(self) -> int:
        """The same as of the last answer, without asking. For people, and for what may be some seconds off."""
        return _uptime() + self._offset


def _uptime() -> int:
    return time.monotonic_ns() // 1_000_000
