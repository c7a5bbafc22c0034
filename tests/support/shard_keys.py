"""What a mongos would refuse, seen on any server: a write of one document that does not name its shard key.

Every client of the tests' own process is listened to. What it sends to a sharded collection is held against
`storage.mongo.sharding.SHARD_KEYS`: an insert has the key's fields, and so have the filters of updates and removals of one
document, and of upserts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import decode_all
from pymongo import monitoring

from storage.mongo.commands import Encoded
from storage.mongo.sharding import SHARD_KEYS


def unnamed(command: dict[str, Any]) -> list[str]:
    """The parts of a command that a mongos would refuse, in words."""
    name, collection = next(iter(command.items()))
    if name == "bulkWrite":
        collections = [one["ns"].partition(".")[2] for one in command["nsInfo"]]
        inserts = [{"insert": collections[op["insert"]], "documents": [op["document"]]} for op in _sent(command["ops"])]
        return [part for insert in inserts for part in unnamed(insert)]
    key = SHARD_KEYS.get(collection) if isinstance(collection, str) else None
    if key is None:
        return []
    if name == "insert":
        filters = _sent(command["documents"])
    elif name == "update":
        filters = [one["q"] for one in command["updates"] if not one.get("multi") or one.get("upsert")]
    elif name == "delete":
        filters = [one["q"] for one in command["deletes"] if one["limit"]]
    elif name == "findAndModify":
        filters = [command["query"]]
    else:
        return []
    return [f"{name} {collection} {one}" for one in filters if not all(_equal(one.get(field)) for field in key)]


def _sent(documents: list[dict[str, Any] | Encoded]) -> list[dict[str, Any]]:
    return [one for some in documents for one in (decode_all(some.raw) if isinstance(some, Encoded) else [some])]


def _equal(condition: Any) -> bool:
    """Whether a filter's condition is a value, and no range."""
    if isinstance(condition, dict):
        return set(condition) == {"$eq"}
    return condition is not None


class _Listener(monitoring.CommandListener):
    def __init__(self) -> None:
        self.refused: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.refused += unnamed(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing more to see."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing more to see."""


LISTENER = _Listener()
monitoring.register(LISTENER)


@pytest.fixture(autouse=True)
def every_write_names_its_shard_key() -> Iterator[None]:
    """For a conftest: a test fails that has sent what a mongos refuses."""
    LISTENER.refused.clear()
    yield
    assert LISTENER.refused == []
