"""What one node at a time does. A lease counts while its holder is up: nothing runs out, and nothing is renewed."""

from __future__ import annotations

from storage.cluster import UP
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.documents import Collection
from storage.mongo.node import MongoNode, node_key

_ATTEMPTS = 5


class Leases:
    """The leases as one node sees them."""

    def __init__(self, collection: Collection, nodes: Collection, node: MongoNode) -> None:
        self._collection = collection
        self._nodes = nodes
        self._node = node

    async def take(self, name: str) -> bool:
        """See `storage.cluster.Cluster.lease`. Others that try at once get it, or this one does: it then tries no further."""
        await self._node.confirm()
        mine = self._node.token
        for _ in range(_ATTEMPTS):
            with storage_errors():
                found = await self._collection.find_one({"_id": name})
            if found is None:
                if await inserted(self._collection, {"_id": name, "holder": mine}):
                    return True
                continue
            holder = found["holder"]
            if holder == mine:
                return True
            with storage_errors():
                other = await self._nodes.find_one({"_id": node_key(holder)}, {"state": 1})
                if other is not None and other["state"] == UP:
                    return False
                result = await self._collection.update_one({"_id": name, "holder": holder}, {"$set": {"holder": mine}})
            if result.matched_count:
                return True
        return False

    async def give_back(self, name: str) -> None:
        """See `storage.cluster.Cluster.release`."""
        await self._node.confirm()
        with storage_errors():
            await self._collection.delete_one({"_id": name, "holder": self._node.token})

    async def forget(self, token: int) -> None:
        """Remove all that a node holds, which is gone."""
        with storage_errors():
            await self._collection.delete_many({"holder": {"$eq": token}})
