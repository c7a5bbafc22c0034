"""A stock client that goes from node to node while others publish: as if there were one broker."""

from __future__ import annotations

import asyncio

import paho.mqtt.client as paho

from storage.records import DeviceKey
from tests.support.cluster import Node, cluster
from tests.support.paho_client import PahoClient
from tests.support.until import until

COUNT = 120
HOPS = 9


def move(client: PahoClient, node: Node) -> None:
    """The client breaks its connection off and begins one to this node, with what it keeps of its session."""
    client.paho.loop_stop()
    assert client.connect(node.server.addresses["tcp"]) == "Success"
    assert client.present


def publish_all(node: Node, qos: int) -> None:
    publisher = PahoClient(f"publisher-{qos}", paho.MQTTv311)
    publisher.connect(node.server.addresses["tcp"])
    for number in range(COUNT):
        assert publisher.publish(f"news/{qos}", b"%d" % number, qos) == "Success"
    publisher.close()


async def test_a_client_that_hops_from_node_to_node_misses_nothing_and_gets_qos_2_once() -> None:
    async with cluster(3, lease=10.0) as made:
        client = PahoClient("phone", paho.MQTTv311, clean_session=False)
        assert await asyncio.to_thread(client.connect, made.nodes[0].server.addresses["tcp"]) == "Success"
        assert await asyncio.to_thread(client.subscribe, "news/#", 2)
        publishing = [asyncio.create_task(asyncio.to_thread(publish_all, made.nodes[qos], qos)) for qos in (1, 2)]
        for number in range(1, HOPS):
            await asyncio.to_thread(move, client, made.nodes[number % 3])
        await asyncio.gather(*publishing)
        received: dict[int, list[int]] = {1: [], 2: []}
        while not all(COUNT - 1 in numbers for numbers in received.values()):
            message = await asyncio.to_thread(client.message)
            received[int(message.topic[-1])].append(int(message.payload))
        await asyncio.to_thread(client.close)
        assert received[2] == list(range(COUNT))
        assert list(dict.fromkeys(received[1])) == list(range(COUNT))


async def test_what_was_published_while_its_node_was_dead_reaches_a_client_once() -> None:
    """A persistent subscriber's node is killed, and the message comes through another one, as users of other brokers lost it.
    What was acknowledged before is not delivered again at each later crash."""
    async with cluster(3, lease=0.8, errors=True) as made:
        client = PahoClient("phone", paho.MQTTv311, clean_session=False)
        await asyncio.to_thread(client.connect, made.nodes[0].server.addresses["tcp"])
        assert await asyncio.to_thread(client.subscribe, "news", 1)
        publisher = PahoClient("publisher", paho.MQTTv311)
        await asyncio.to_thread(publisher.connect, made.nodes[2].server.addresses["tcp"])
        sent = 0
        for victim, next_ in ((0, 1), (1, 2)):
            await asyncio.to_thread(publisher.publish, "news", b"%d" % sent)
            assert (await asyncio.to_thread(client.receive))[1] == b"%d" % sent

            async def stored(offset: int = sent + 1) -> bool:
                device = await made.database.storage.device(DeviceKey("c/phone", "phone"))
                return device is not None and device.offset == offset

            await until(stored, "its offset is stored")
            await made.nodes[victim].kill()
            await asyncio.to_thread(publisher.publish, "news", b"%d" % (sent + 1))
            await asyncio.to_thread(move, client, made.nodes[next_])
            assert (await asyncio.to_thread(client.receive))[1] == b"%d" % (sent + 1)
            sent += 2
        await asyncio.to_thread(publisher.publish, "news", b"last")
        assert (await asyncio.to_thread(client.receive))[1] == b"last"
        await asyncio.to_thread(client.close)
        await asyncio.to_thread(publisher.close)
