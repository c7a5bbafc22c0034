"""What a node stored, and did not come to tell the others of, reaches their clean sessions: once, whoever tells it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from broker.delivery.heard import Heard
from broker.packets.model import PubAck, Publish, PubRec
from broker.packets.properties import Properties, Property
from storage.cluster import DEAD, GONE, UP, Parcel
from storage.errors import StorageUnavailable
from tests.support.cluster import Cluster, Node, cluster
from tests.support.until import until
from tests.support.wire import Client

LEASE = 0.8


def state(made: Cluster, node: Node) -> str:
    return made.database.nodes[node.token].state


async def listening(*nodes: Node) -> list[Client]:
    """A clean session on each node."""
    clients = []
    for number, node in enumerate(nodes):
        client = await node.client(f"clean-{number}", 5)
        assert await client.subscribe("news", options=2) == [2]
        clients.append(client)
    return clients


async def got_once(clients: list[Client], publisher: Client) -> None:
    """Each has got it, and what comes next is another message."""
    for client in clients:
        assert (await client.message()).payload == b"untold"
    await publisher.publish("news", b"next")
    for client in clients:
        assert (await client.message()).payload == b"next"


@pytest.mark.parametrize("by", ["packet id", "message-id"])
async def test_a_message_whose_node_died_untold_is_got_once_though_its_second_attempt_is_acknowledged(by: str) -> None:
    """! The second attempt finds it stored already, so the node that acknowledges it has nothing to deliver."""
    async with cluster(3, errors=True, lease=LEASE) as made:
        one, other, third = made.nodes
        clients = await listening(other, third)
        first = await one.durable("publisher", 5)
        one.freeze_after_commit()
        named: Properties = {Property.USER_PROPERTY: [("message-id", "m1")]} if by == "message-id" else {}
        qos = 1 if named else 2
        first.send(Publish("news", b"untold", qos, False, False, 9, named))
        await until(lambda: one.frozen, "it is stored")
        await one.kill()
        second = await other.durable("publisher", 5)
        second.send(Publish("news", b"untold", qos, False, True, 9, named))
        if not named:
            assert (await second.expect(PubRec)).packet_id == 9
        else:
            assert ("duplicate", "true") in (await second.expect(PubAck)).properties[Property.USER_PROPERTY]
        await until(lambda: state(made, one) == GONE, "settled")
        await got_once(clients, await other.client("another", 5))


async def test_a_silent_nodes_message_is_got_once_though_that_node_wakes_and_tells_it_too() -> None:
    async with cluster(3, errors=True, lease=8.0) as made:
        one, other, third = made.nodes
        clients = await listening(one, other, third)
        first = await one.durable("publisher", 5)
        one.freeze_after_commit()
        first.send(Publish("news", b"untold", 2, False, False, 9))
        await until(lambda: one.frozen, "it is stored")
        second = await other.durable("publisher", 5)
        second.send(Publish("news", b"untold", 2, False, True, 9))
        await second.expect(PubRec)
        one.thaw()
        assert one.server._cluster is not None
        part = one.server._cluster
        await until(lambda: part.done > 0, "it has told it")
        await got_once(clients, await third.client("another", 5))
        assert [state(made, node) for node in made.nodes] == [UP] * 3


async def test_a_node_that_ends_before_it_has_told_leaves_that_to_the_others() -> None:
    async with cluster(2, errors=True, lease=LEASE, mqtt={"shutdown_grace": 1.0}) as made:
        one, other = made.nodes
        clients = await listening(other)
        publisher = await one.client("publisher", 5)
        part, token = one.storage.cluster, one.token
        assert part is not None
        tried = asyncio.Event()

        async def away(parcels: dict[int, Parcel]) -> None:
            tried.set()
            raise StorageUnavailable("the database is away")

        part.send = away  # type: ignore[method-assign, assignment]
        publisher.send(Publish("news", b"untold", 1, False, False, 1))
        await tried.wait()
        await one.server.stop()
        assert made.database.nodes[token].state in (DEAD, GONE)
        await got_once(clients, await other.client("another", 5))


def test_what_is_told_out_of_turn_hides_nothing() -> None:
    """A message of another node that is told for it may be far ahead of the teller's own, or behind: clocks differ by hours."""
    heard, mine, its = Heard(), 3, 5
    ids = {number: [hour << 30 | number << 12 | 7 for hour in range(1, 5)] for number in (mine, its)}
    assert heard.is_first(ids[its][3], mine)
    assert heard.is_first(ids[mine][0], mine)
    assert heard.is_first(ids[its][1], mine)
    assert heard.is_first(ids[its][0], its)
    again = itertools.chain(((id, mine) for id in ids[its][:2]), [(ids[its][1], its), (ids[its][3], its), (ids[mine][0], mine)])
    assert [heard.is_first(id, teller) for id, teller in again] == [False] * 5
    assert not heard.is_first(ids[its][2], its)  # its node tells by rising id
    assert heard.is_first(0, mine)
    assert heard.is_first(0, mine)
