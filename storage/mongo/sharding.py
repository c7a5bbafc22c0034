"""Which collections are spread over the shards of a cluster, by what, and the commands that do it.

What Tideline relies on is that no two documents have one ``_id``. A sharded collection keeps that only where documents with one
``_id`` are always on one shard: each key below follows from the ``_id``. And each write of one document names the whole key,
as a mongos sends no other on.

- The entries of a timeline have its name in front, hashed: what reads or appends to one asks few shards, and timelines are
  spread evenly from the first one on. The sequence behind it lets a long one be cut in parts.
- What is asked for by name alone is spread by the hash of that.
- What is read by ranges of names (the subscriptions of a device, the conversations of a user, the retained messages below a
  topic) stays in their order.
- The rest is small, or is one row of writes anyway, as the routes are: it stays on the database's first shard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pymongo.errors import OperationFailure

from storage.errors import StorageUnusable
from storage.mongo.connection import Address, Connection, is_router, storage_errors
from storage.sharding import AdminCommand

HASHED = "hashed"
SHARD_KEYS: dict[str, dict[str, int | str]] = {
    "store": {"topic": HASHED, "seq": 1},
    "sync": {"user": HASHED, "seq": 1},
    "devices": {"_id": HASHED},
    "subscriptions": {"_id": 1},
    "rows": {"part": HASHED, "name": 1},
    "retained": {"_id": 1},
    "members": {"_id": 1},
    "positions": {"_id": HASHED},
    "conversations": {"_id": HASHED},
    "users": {"_id": HASHED},
    "idempotency": {"_id": HASHED},
    "claims": {"_id": HASHED},
    "lanes": {"receiver": HASHED},
}
_SHARDED_OTHERWISE = 23


class Sharding:
    """The commands for the database of a ``mongodb://`` URL. See `storage.sharding.Sharding`."""

    def __init__(self, url: str) -> None:
        self._address = Address.parse(url)

    def commands(self) -> list[AdminCommand]:
        """See `storage.sharding.Sharding`."""
        database = self._address.database
        found: list[AdminCommand] = [AdminCommand("admin", {"enableSharding": database})]
        for collection, key in SHARD_KEYS.items():
            if HASHED in key.values():  # where there are documents, an index of the key has to be there first
                index = {"key": key, "name": "_".join(f"{field}_{way}" for field, way in key.items())}
                found.append(AdminCommand(database, {"createIndexes": collection, "indexes": [index]}))
            found.append(AdminCommand("admin", {"shardCollection": f"{database}.{collection}", "key": key}))
        return found

    async def apply(self) -> AsyncIterator[AdminCommand]:
        """See `storage.sharding.Sharding`."""
        connection = Connection.make(self._address)
        try:
            with storage_errors(opening=True):
                hello = await connection.client.admin.command("hello")
            if not is_router(hello):
                raise StorageUnusable(
                    f"{_named(hello)} is no mongos, so that its databases cannot be sharded: give the url of a mongos of a "
                    "sharded cluster, to this command and to all nodes"
                )
            with storage_errors(opening=True):
                await connection.bound.ensure_indexes(sharded=True)
            for command in self.commands():
                await _run(connection, command)
                yield command
        finally:
            await connection.close()


async def _run(connection: Connection, command: AdminCommand) -> None:
    with storage_errors(opening=True):
        try:
            await connection.client[command.database].command(command.body)
        except OperationFailure as error:
            if error.code == _SHARDED_OTHERWISE:
                wanted = command.body.get("key", "")
                raise StorageUnusable(
                    f"{command.body.get('shardCollection', command.database)} is sharded by another key than {wanted}: {error}"
                ) from error
            raise


def _named(hello: dict[str, Any]) -> str:
    """The server that answered."""
    if "setName" in hello:
        return f"the server is a member of the replica set {hello['setName']!r}: it"
    return "the server"
