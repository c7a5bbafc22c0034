"""A node that stops while the database hangs, or while a client comes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.packets.encoder import encode
from broker.packets.model import Connect, Publish, Will
from broker.packets.properties import Property
from storage.records import DeviceKey
from tests.support.cluster import cluster
from tests.support.until import until
from tests.support.wire import Client, Closed

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


async def test_a_client_that_was_accepted_as_its_node_stopped_is_not_let_in() -> None:
    """What it began there would have no end: that, its will and what it acknowledged would not be stored any more."""
    key = DeviceKey("c/late", "late")
    connect = Connect("late", 5, False, 0, will=Will("wills", b"", 1, False, {}), properties={Property.SESSION_EXPIRY: 3600})
    async with cluster(2) as made:
        node, other = made.nodes
        publisher = await node.client("publisher")
        async with node.held() as commits:
            publisher.send(Publish("t", b"", 1, packet_id=1))
            await commits.arrived()
            plain = socket.create_connection(node.address)
            plain.sendall(encode(connect, 5))
            await asyncio.sleep(0)  # the node looks at its listener
            stopping = asyncio.create_task(node.server.stop())
            late = Client(*await asyncio.open_connection(sock=plain), 5)
            answer = asyncio.create_task(late.receive())
            await until(lambda: answer.done() or node.server.sessions.get(key) is not None)
        await stopping
        with pytest.raises(Closed):
            await answer
        assert await other.storage.device(key) is None
