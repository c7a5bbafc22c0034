"""What a node that fell silent has of a device that has gone on elsewhere comes in its place, or not at all."""

from __future__ import annotations

import pytest

from broker.packets import ReasonCode
from broker.packets.model import ConnAck, Connect, Disconnect, PubAck, Publish, PubRec
from broker.packets.properties import Property
from tests.support.cluster import Node, cluster
from tests.support.until import until
from tests.support.wire import Client

FIRST, SECOND = Publish("news", b"first", 2, False, False, 7), Publish("news", b"second", 1, False, False, 8)


async def arrived(node: Node, count: int) -> None:
    await until(lambda: node.server.counters.publish_received >= count, f"{count} messages are read")


async def passed(node: Node, topic: str, client: Client) -> None:
    """All that the node had is decided: a message that came behind it is stored."""
    client.send(Publish(topic, b"behind", 0, False, False, 0))
    await until(lambda: node.storage.database.storage.read_conversation(topic), "what came behind it is stored")


async def stored(node: Node) -> list[bytes]:
    return [message.payload for message in await node.storage.database.storage.read_conversation("news")]


@pytest.mark.parametrize("together", [True, False], ids=["in one group", "in the next group"])
async def test_qos_1_does_not_overtake_the_qos_2_that_storage_refuses(together: bool) -> None:
    """The device is taken, and opened nowhere yet: the routes say nothing of it, and the frozen node learns it by its QoS 2."""
    async with cluster(2, errors=True, lease=20.0) as made:
        one, other = made.nodes
        old, witness = await one.durable("phone", 5), await one.client("witness", 5)
        one.storage.faults.freeze_at("commit store")
        old.send(*([FIRST, SECOND] if together else [FIRST]))
        await until(lambda: "commit store" in one.storage.faults.waiting, "its group is under way")
        if not together:
            old.send(SECOND)
        await arrived(one, 2)
        held = other.hold_call("finish")
        new = await other.socket(5)
        new.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
        await held.begun.wait()
        one.thaw()
        assert [p.reason for p in await old.closed() if isinstance(p, Disconnect)] == [ReasonCode.SESSION_TAKEN_OVER]
        await passed(one, "witness", witness)
        assert await stored(one) == []
        held.may_go_on.set()
        assert (await new.expect(ConnAck)).session_present
        new.send(FIRST, SECOND)
        assert (await new.expect(PubRec)).packet_id == 7
        assert (await new.expect(PubAck)).packet_id == 8
        assert await stored(one) == [b"first", b"second"]


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_waits_is_not_stored_once_the_routes_say_that_its_device_is_elsewhere(qos: int) -> None:
    async with cluster(2, errors=True, lease=20.0) as made:
        one, other = made.nodes
        old, witness = await one.durable("phone", 5), await one.client("witness", 5)
        one.freeze()
        old.send(Publish("news", b"late", qos, False, False, 9 if qos else 0))
        await arrived(one, 1)
        new = await other.durable("phone", 5)
        await new.publish("news", b"after", 1)
        one.thaw()
        await old.closed()
        await passed(one, "witness", witness)
        assert await stored(one) == [b"after"]
