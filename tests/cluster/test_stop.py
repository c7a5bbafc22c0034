"""A node that stops while the database hangs."""

from __future__ import annotations

import asyncio

from broker.packets.model import Publish
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
