"""Nodes of a MongoDB cluster, taken apart: what commits and the broker do not show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from storage.errors import StorageUnavailable
from storage.messages import Message
from storage.mongo.clock import DatabaseClock
from storage.mongo.connection import Address, Connection
from storage.mongo.documents import Collections
from storage.mongo.joining import join
from storage.mongo.lanes import Lanes
from storage.mongo.node import MongoNode
from storage.mongo.routes import Routes
from tests.support import mongo_server
from tests.support.until import until


@dataclass
class Member:
    connection: Connection
    collections: Collections
    node: MongoNode
    routes: Routes
    lanes: Lanes


@asynccontextmanager
async def member(
    database: str, *, through: int = 0, lease_ms: int = 10_000, stored: Sequence[Message] = ()
) -> AsyncIterator[Member]:
    """A node that has joined, and beats only where it must. ``stored``: what its store has."""

    async def read_messages(ids: Sequence[int]) -> list[Message]:
        return [message for message in stored if message.id in ids]

    connection = Connection.make(Address.parse(mongo_server.url(database, "serverSelectionTimeoutMS=1000", through=through)))
    collections = connection.bound.collections
    clock = DatabaseClock(connection.client)

    async def joined() -> MongoNode | None:
        """A busy machine may take longer for it than the driver is given here."""
        try:
            return await join(collections.nodes, clock, lease_ms, "", {})
        except StorageUnavailable:
            return None

    node = await until(joined, "the node has joined")
    assert node is not None
    routes = Routes(collections.routes, collections.nodes, node, clock)
    lanes = Lanes(collections.lanes, node, read_messages)
    await lanes.start(connection.client)
    yield Member(connection, collections, node, routes, lanes)
    await lanes.stop()
    await connection.close()
