"""Spreading a database over the shards of a cluster: what an administrator runs once, beside the nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol


class AdminCommand(NamedTuple):
    """A command of the database's own, and the database that it is sent to. ``body`` can be written as JSON."""

    database: str
    body: dict[str, Any]


class Sharding(Protocol):
    """What shards one database. Nodes may serve it meanwhile; it may be run again, and then changes nothing."""

    def commands(self) -> list[AdminCommand]:
        """All commands, in their order. Asks no server. They count on the indexes that a node makes when it starts."""

    def apply(self) -> AsyncIterator[AdminCommand]:
        """Make those indexes, and run the commands one after the other: each is given once it has taken effect.

        Raises `StorageUnusable` where the server cannot shard, does not let this user do it, or has sharded a collection by
        another key, and `StorageUnavailable`; what was done by then stays.
        """
