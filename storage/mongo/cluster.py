"""One node's part in the cluster: `storage.cluster.Cluster`, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import pymongo

from storage.cluster import DEAD, GONE, UP, Finished, Node, Parcel, Route
from storage.errors import StorageError
from storage.messages import Append, DeviceKey
from storage.mongo.clock import DatabaseClock
from storage.mongo.commit import Writer
from storage.mongo.connection import storage_errors
from storage.mongo.finish import finish
from storage.mongo.intents import forget_announced
from storage.mongo.joining import mark_dead
from storage.mongo.lanes import Lanes
from storage.mongo.leases import Leases
from storage.mongo.node import MongoNode, node_key, node_of
from storage.mongo.participation import settings_mark
from storage.mongo.routes import Routes
from storage.mongo.shared_inboxes import MongoSharedInboxes
from storage.mongo.state import State
from storage.mongo.takeover import take
from storage.records import CloseSession, Device

_PAGE = 500

Rematch = Callable[[Sequence[Append]], Awaitable[None]]


class MongoCluster:
    """See `storage.cluster.Cluster`."""

    def __init__(
        self, state: State, node: MongoNode, clock: DatabaseClock, routes: Routes, lanes: Lanes, writer: Writer
    ) -> None:
        self._state = state
        collections = state.collections
        self._nodes = collections.nodes
        self._devices = collections.devices
        self._node = node
        self._clock = clock
        self._routes = routes
        self._lanes = lanes
        self._leases = Leases(collections.leases, collections.nodes, node)
        self.shared_inboxes = MongoSharedInboxes(collections.divisions, node)
        self._writer = writer
        self.forwarded = True
        self._there: set[int] = set()
        self._newest = 0
        """The highest token that was ever seen."""

    @property
    def rematch(self) -> Rematch | None:
        """See `storage.cluster.Cluster`."""
        return self._writer.rematch

    @rematch.setter
    def rematch(self, rematch: Rematch | None) -> None:
        self._writer.rematch = rematch

    @property
    def me(self) -> Node:
        """See `storage.cluster.Cluster`."""
        return self._node.me

    @property
    def lease_seconds(self) -> float:
        """See `storage.cluster.Cluster`."""
        return self._node.lease_seconds

    def gone(self, token: int) -> bool:
        """Whether a node is known to be gone. Tokens rise: one above all that are known came a moment ago."""
        return token not in self._there and token <= self._newest

    # --- nodes -----------------------------------------------------------------------------------------------------

    async def beat(self, *, done: int, routes: int, sessions: int) -> Node:
        """See `storage.cluster.Cluster`."""
        return await self._node.beat(done=done, routes=routes, sessions=sessions)

    async def nodes(self) -> list[Node]:
        """See `storage.cluster.Cluster`."""
        with storage_errors():
            documents = await self._nodes.find({"state": {"$in": [UP, DEAD]}}).to_list(None)
        nodes = sorted(node_of(document) for document in documents)
        self._there = {node.token for node in nodes}
        self._newest = max([self._newest, *self._there])
        self._lanes.alone = self._there <= {self._node.token}
        return nodes

    async def tidy(self) -> None:
        """Remove what was sent to nodes by who did not know yet that they had gone."""
        await self._lanes.forget_all_but(node.token for node in await self.nodes())

    async def time(self) -> int:
        """See `storage.cluster.Cluster`."""
        return await self._clock.read()

    async def mark_dead(self, seen: Node) -> bool:
        """See `storage.cluster.Cluster`."""
        await self._node.confirm()
        return await mark_dead(self._nodes, seen)

    async def finish(self, token: int) -> Finished:
        """See `storage.cluster.Cluster`."""
        await self._node.confirm()
        with storage_errors():
            document = await self._nodes.find_one({"_id": node_key(token)})
        if document is None:
            return Finished(0, [])
        return await finish(self._state, token, document["number"], document["done"], self._routes.append)

    async def held(self, token: int) -> AsyncIterator[list[DeviceKey]]:
        """See `storage.cluster.Cluster`."""
        # One cursor, in the order of the index: pages by key would sort all that is left for each of them.
        with storage_errors():
            cursor = self._devices.find({"node": {"$eq": token}}, {"user": 1, "client": 1}).batch_size(_PAGE)
        async with cursor:
            while True:
                with storage_errors():
                    page = await cursor.to_list(_PAGE)
                if not page:
                    return
                yield [DeviceKey(document["user"], document["client"]) for document in page]

    async def take(self, key: DeviceKey, holder: int, end: Callable[[Device], CloseSession]) -> Device | None:
        """See `storage.cluster.Cluster`."""
        await self._node.confirm()
        return await take(self._state, key, holder, end)

    async def settle(self, token: int) -> None:
        """See `storage.cluster.Cluster`."""
        await self._node.confirm()
        now = await self._clock.read()
        with storage_errors():
            settled = {"$set": {"state": GONE, "ended": now}}
            result = await self._nodes.update_one({"_id": node_key(token), "state": DEAD}, settled)
        if result.matched_count:
            self._there.discard(token)
            await self._forget(token)

    async def _forget(self, token: int) -> None:
        """Remove what is kept of a node that is gone."""
        await asyncio.gather(self._lanes.forget(token), self._leases.forget(token), forget_announced(self._state, token))

    async def ask(self, token: int, what: str) -> bool:
        """See `storage.cluster.Cluster`."""
        with storage_errors():
            result = await self._nodes.update_one({"_id": node_key(token), "state": UP}, {"$set": {"asked": what}})
        return bool(result.matched_count)

    async def settings_mark(self) -> tuple[int, int]:
        """See `storage.cluster.Cluster`."""
        return await settings_mark(self._state)

    # --- routes ----------------------------------------------------------------------------------------------------

    async def routes_end(self) -> tuple[int, int]:
        """See `storage.cluster.Cluster`."""
        return await self._routes.end()

    async def routes_after(self, after: int, limit: int = 1000) -> list[Route]:
        """See `storage.cluster.Cluster`."""
        return await self._routes.after(after, limit)

    async def trim_routes(self, before: int) -> int:
        """See `storage.cluster.Cluster`."""
        return await self._routes.trim(before)

    # --- lanes -----------------------------------------------------------------------------------------------------

    async def send(self, parcels: Mapping[int, Parcel]) -> None:
        """See `storage.cluster.Cluster`."""
        await self._lanes.send({token: parcel for token, parcel in parcels.items() if not self.gone(token)})

    async def receive(self, wait: float) -> list[Parcel]:
        """See `storage.cluster.Cluster`."""
        return await self._lanes.receive(wait)

    # --- leases ----------------------------------------------------------------------------------------------------

    async def lease(self, name: str) -> bool:
        """See `storage.cluster.Cluster`."""
        return await self._leases.take(name)

    async def release(self, name: str) -> None:
        """See `storage.cluster.Cluster`."""
        await self._leases.give_back(name)

    async def leave(self, patience: float | None) -> None:
        """Remove what others have for this node, which has left. Where that fails it is garbage, and does no harm."""
        with suppress(StorageError), pymongo.timeout(patience):
            await self._forget(self.me.token)
