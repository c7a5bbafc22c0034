"""The death of nodes: who is dead, what becomes of its devices, wills and deadlines, and who is not dead at all."""

from __future__ import annotations

import asyncio

from broker.packets.model import Publish, Will
from broker.packets.properties import Property
from broker.publication import Outgoing, Publication
from storage.cluster import GONE, UP
from storage.records import DeviceKey, Message
from tests.support.cluster import Cluster, Node, cluster
from tests.support.until import until

PHONE = DeviceKey("c/phone", "phone")
LEASE = 0.8


async def stored(node: Node, topic: str) -> list[bytes]:
    return [message.payload for message in await node.storage.read_conversation(topic)]


def state(made: Cluster, node: Node) -> str:
    return made.database.nodes[node.token].state


def serves(node: Node) -> bool:
    assert node.server.cluster is not None
    return not node.server.cluster.trouble


async def test_a_dead_nodes_devices_count_as_disconnected_and_their_wills_are_published_once() -> None:
    async with cluster(3, errors=True, lease=LEASE) as made:
        one, other, third = made.nodes
        await one.durable("phone", 5, will=Will("gone", b"phone", 1, False, {}))
        await one.client("passer-by", 5, will=Will("gone", b"passer-by", 1, False, {}))
        token = one.token
        await one.kill()

        async def both() -> bool:
            device = await other.storage.device(PHONE)
            return len(await stored(other, "gone")) == 2 and device is not None and device.will is None

        await until(both)
        device = await other.storage.device(PHONE)
        assert device is not None
        assert device.node == 0
        assert device.will is None
        assert 0 < device.expires_at <= other.server.time.now() + 3600_000
        await until(lambda: made.database.nodes[token].state == GONE, "settled")
        assert sorted(await stored(third, "gone")) == [b"passer-by", b"phone"]
        assert await other.storage.device(DeviceKey("c/passer-by", "passer-by")) is None
        assert [state(made, node) for node in (other, third)] == [UP, UP]


async def test_a_device_that_is_back_elsewhere_is_left_alone() -> None:
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {Property.WILL_DELAY: 1}))
        token = one.token
        await one.kill()
        back = await other.durable("phone", 5)
        await until(lambda: made.database.nodes[token].state == GONE, "settled")
        await back.ping()
        device = await other.storage.device(PHONE)
        assert device is not None
        assert (device.node, device.expires_at, device.will) == (other.token, 0, None)
        assert await stored(other, "gone") == []


async def test_a_burier_that_dies_is_replaced() -> None:
    """Killed once it has the lease of the failover and before it did anything."""
    async with cluster(3, errors=True, lease=LEASE) as made:
        one, other, third = made.nodes
        await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        dead = one.token
        await one.kill()
        name = f"burial/{dead}"
        await until(lambda: name in made.database.leases)
        successor = next(node for node in (other, third) if node.token == made.database.leases[name])
        left = third if successor is other else other
        await successor.kill()
        await until(lambda: made.database.nodes[dead].state == GONE, "settled")
        await until(lambda: stored(left, "gone"))
        assert await stored(left, "gone") == [b"will"]
        assert state(made, left) == UP


async def test_an_outage_of_the_database_kills_nobody() -> None:
    """! Only time in which an observer's own beats succeeded counts."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        for node in made.nodes:
            node.storage.faults.away = True
        await asyncio.sleep(3 * LEASE)  # not a wait: it is the outage
        other.storage.faults.away = False
        await until(lambda: serves(other))
        one.storage.faults.away = False
        await phone.publish("news", b"hello")
        assert [state(made, node) for node in made.nodes] == [UP, UP]
        assert other.server.failure == one.server.failure == ""


async def test_a_node_that_finds_itself_marked_dead_ends() -> None:
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        one.freeze()
        await until(lambda: state(made, one) != UP)
        phone.send_bytes(b"")
        one.thaw()
        await one.server.serve_forever()
        assert "marked dead" in one.server.failure
        assert state(made, other) == UP


async def test_deadlines_are_kept_whichever_node_a_device_was_on() -> None:
    """Session expiry, and a delayed will, stored by one node and watched by another."""
    async with cluster(2, lease=LEASE) as made:
        one, other = made.nodes
        for node, name in ((one, "one"), (other, "other")):
            client = await node.client(name, 5, clean=False, expiry=1)
            await client.drop()
            client = await node.client(
                f"will-{name}", 5, clean=False, expiry=100, will=Will("gone", name.encode(), 1, False, {Property.WILL_DELAY: 1})
            )
            await client.drop()

        async def ended() -> bool:
            return len(await stored(one, "gone")) == 2 and await one.storage.device_count() == 2

        await until(ended)
        assert sorted(await stored(other, "gone")) == [b"one", b"other"]


async def test_what_a_node_stored_and_told_nobody_of_reaches_who_waits_for_it() -> None:
    """! Whoever takes over from a node finishes its half-done groups: here the others were not told any more."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news", options=1)
        publisher = await one.client("publisher", 5)
        await publisher.publish("news", b"known")
        assert (await phone.message()).payload == b"known"
        one.freeze_after_commit()
        publisher.send(Publish("news", b"half done", 1, False, False, 9))
        await until(lambda: one.frozen, "it is stored")
        await one.kill()
        assert (await phone.message()).payload == b"half done"


async def test_what_a_dead_node_had_on_its_way_arrives_too() -> None:
    """! It is stored after the node was found dead and its work was finished: that is done again, some leases later."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        phone, publisher = await other.durable("phone", 5), await one.durable("publisher", 5)
        await phone.subscribe("news", options=1)
        one.storage.faults.freeze_at("commit store")
        publisher.send(Publish("news", b"late", 1, packet_id=1))

        async def finished() -> bool:
            device = await other.storage.device(DeviceKey("c/publisher", "publisher"))
            return device is not None and device.node == 0

        await until(finished)
        assert await stored(other, "news") == []
        one.thaw()
        assert (await phone.message()).payload == b"late"


async def test_what_another_node_had_numbered_says_nothing_of_what_this_one_has_done() -> None:
    """A message that is adopted from another node has that node's id, which may be far ahead where its clock is wrong."""
    async with cluster(2) as made:
        one, other = (node.server._cluster for node in made.nodes)
        assert one is not None
        assert other is not None
        own, foreign = (node.server.ids.take()[0] for node in made.nodes)
        far = foreign + (3_600_000 << 22)
        published = [Publication(Outgoing.of(Message(id, "a", "u/ann", "ann", 1, 1, b"x"))) for id in (own, far)]
        assert await one.tell(published)
        assert one.done == own


async def test_a_will_is_published_although_the_burier_did_not_hear_that_it_took_the_device() -> None:
    """Nor is the session held by a node that it never had a connection to."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        other.lose_answer("take")
        token = one.token
        await one.kill()
        await until(lambda: stored(other, "gone"))
        await until(lambda: made.database.nodes[token].state == GONE, "settled")
        assert await stored(other, "gone") == [b"will"]
        device = await other.storage.device(PHONE)
        assert device is not None
        assert (device.node, device.expires_at > 0) == (0, True)
