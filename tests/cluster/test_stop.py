"""A node that stops while the database hangs, or while a client comes."""

from __future__ import annotations

import asyncio

from websockets.frames import OP_BINARY, Frame

from broker.packets.encoder import encode
from broker.packets.model import Connect, Publish, Will
from broker.packets.properties import Property
from storage.records import DeviceKey
from tests.leaving.dial import HANDSHAKE
from tests.support.cluster import cluster
from tests.support.until import until

GRACE = 0.5


async def test_a_stop_ends_where_storage_hangs_and_does_not_hear_a_cancellation() -> None:
    """What waits for storage is told to end until it does: a driver may miss it once, and answers much later than the grace."""
    async with cluster(1, errors=True, mqtt={"shutdown_grace": GRACE}) as made:
        node = made.nodes[0]
        publisher = await node.client("publisher")
        node.storage.faults.deaf = True
        node.freeze()
        publisher.send(Publish("some/topic", b"undecided", 1, False, False, 1))
        await publisher.ping()
        calls = {"beat", "routes_after", "lease"}
        await until(lambda: calls <= set(node.storage.faults.waiting), lambda: f"of {calls} {node.storage.faults.waiting} hang")
        async with asyncio.timeout(20):
            await node.server.stop()
        assert node.storage.faults.waiting == []


async def test_a_client_that_was_accepted_before_its_node_stopped_is_not_let_in_after_that() -> None:
    """Over WebSocket, where it is no client before its handshake. What it began there would have no end: that, its will and
    what it acknowledged would not be stored any more."""
    key = DeviceKey("c/late", "late")
    connect = Connect("late", 5, False, 0, will=Will("wills", b"", 1, False, {}), properties={Property.SESSION_EXPIRY: 3600})
    async with cluster(2) as made:
        node, other = made.nodes
        publisher = await node.client("publisher")
        reader, writer = await asyncio.open_connection(*node.websocket)
        listeners = node.server._listeners
        assert listeners is not None
        await until(lambda: listeners.connections == 2)
        async with node.held() as commits:
            publisher.send(Publish("t", b"", 1, packet_id=1))
            await commits.arrived()
            stopping = asyncio.create_task(node.server.stop())
            await publisher.closed()
            writer.write(HANDSHAKE + Frame(OP_BINARY, encode(connect, 5)).serialize(mask=True))
            heard = asyncio.create_task(reader.read())
            await until(lambda: heard.done() or node.server.sessions.get(key) is not None)
        await stopping
        await heard
        writer.close()
        assert await other.storage.device(key) is None
