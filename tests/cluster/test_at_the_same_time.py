"""What falls between two steps of two nodes: each of these was lost before its mend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from broker.packets.model import PubAck, Publish, SubAck, Subscribe
from storage.cluster import Route
from storage.errors import StorageUnavailable
from storage.records import Operation
from tests.support.cluster import Node, cluster
from tests.support.until import until


@asynccontextmanager
async def answers_held(node: Node) -> AsyncIterator[list[Sequence[Operation]]]:
    """While entered, commits of the node take effect, and the node does not hear of it; those that did so."""
    storage, go_on, done = node.server.storage, asyncio.Event(), list[Sequence[Operation]]()
    real = storage.commit

    async def commit(group: Sequence[Operation]) -> None:
        await real(group)
        done.append(group)
        await go_on.wait()

    storage.commit = commit  # type: ignore[method-assign]
    try:
        yield done
    finally:
        storage.commit = real  # type: ignore[method-assign]
        go_on.set()


async def test_a_device_that_connects_while_another_node_commits_is_woken() -> None:
    """That node looks at the routes again once the message is in the inbox."""
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news", options=1)
        await other.lose(phone, "phone")
        publisher = await one.client("publisher")
        async with one.held() as commits:
            publisher.send(Publish("news", b"hello", 1, False, False, 1, {}))
            await commits.arrived()
            phone = await other.durable("phone", 5)
        assert (await phone.message()).payload == b"hello"
        await publisher.expect(PubAck)


async def test_what_comes_while_a_device_opens_its_inbox_is_not_lost() -> None:
    """The inbox's head was read before, and the device is not there yet when its node is told."""
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news", options=1)
        await other.lose(phone, "phone")
        publisher = await one.client("publisher")
        phone = await other.socket(5)
        async with answers_held(other) as done:
            connecting = asyncio.ensure_future(phone.connect("phone", clean=False, expiry=3600))
            await until(lambda: bool(done))
            assert await publisher.publish("news", b"hello") == 0
            await until(lambda: "c/phone" in other.server.delivery._early)
        assert (await connecting).session_present
        assert (await phone.message()).payload == b"hello"


async def test_what_comes_for_a_filter_before_its_place_is_known_waits_for_it() -> None:
    """Other nodes match a filter from the moment it is told; here the commit that says from where on it counts is not done."""
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("elsewhere", options=1)
        publisher = await one.client("publisher")
        async with answers_held(other) as done:
            phone.send(Subscribe(7, [("news", 1)], {}))
            await until(lambda: bool(done))
            await publisher.publish("news", b"hello")
            await until(lambda: other.server.delivery._inboxes["c/phone"].seq == 1)
        await phone.expect(SubAck)
        assert (await phone.message()).payload == b"hello"
        await phone.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_a_message_is_acknowledged_once_the_other_nodes_are_told(durable: bool) -> None:
    async with cluster(2, errors=True) as made:
        one, other = made.nodes
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        await subscriber.subscribe("news", options=1)
        publisher = await one.client("publisher")
        part = one.storage.cluster
        assert part is not None
        real, tried = part.send, asyncio.Event()

        async def away(parcels: object) -> None:
            tried.set()
            raise StorageUnavailable("the database is away")

        part.send = away  # type: ignore[method-assign]
        publisher.send(Publish("news", b"hello", 1, False, False, 1, {}))
        await tried.wait()
        await publisher.ping()  # no PUBACK came before its answer
        part.send = real  # type: ignore[method-assign]
        await publisher.expect(PubAck)
        assert (await subscriber.message()).payload == b"hello"
        await subscriber.quiet()


async def test_what_is_sent_to_a_node_twice_is_delivered_once() -> None:
    """It was not known whether it had arrived."""
    async with cluster(2, errors=True, policies=[{"filter": "none", "mode": "none"}]) as made:
        one, other = made.nodes
        durable, clean = await other.durable("durable", 5), await other.client("clean", 5)
        for subscriber in (durable, clean):
            await subscriber.subscribe("news", "none", options=1)
        publisher = await one.client("publisher")
        part = one.storage.cluster
        assert part is not None
        real = part.send

        async def twice(parcels: object) -> None:
            await real(parcels)  # type: ignore[arg-type]
            part.send = real  # type: ignore[method-assign]
            raise StorageUnavailable("its answer was lost")

        for topic in ("news", "none"):
            part.send = twice  # type: ignore[method-assign]
            await publisher.publish(topic, b"hello")
        for subscriber in (durable, clean):
            assert {(await subscriber.message()).topic, (await subscriber.message()).topic} == {"news", "none"}
            await subscriber.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_what_is_retained_while_a_filter_is_being_stored_is_got(durable: bool) -> None:
    """What is retained is read after it."""
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await one.client("publisher")
        await publisher.publish("state", b"old", retain=True)
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        async with other.held() as commits:
            subscriber.send(Subscribe(1, [("state", 1)], {}))
            await commits.arrived()
            await publisher.publish("state", b"new", retain=True)
        await subscriber.expect(SubAck)
        assert (await subscriber.message()).payload == b"new"
        await subscriber.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_who_subscribes_again_gets_what_is_retained_again(durable: bool) -> None:
    """Also what came as a message before, which takes no copy's place."""
    async with cluster(1) as made:
        (one,) = made.nodes
        publisher = await one.client("publisher")
        subscriber = await (one.durable if durable else one.client)("subscriber", 5)
        await subscriber.subscribe("state", options=1)
        await publisher.publish("state", b"new", retain=True)
        assert (await subscriber.message()).retain is False
        await subscriber.subscribe("state", options=1)
        assert (await subscriber.message()).retain is True
        await subscriber.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_who_subscribes_while_a_message_is_being_retained_gets_it(durable: bool) -> None:
    """It was matched before, and is matched again once it is retained."""
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await one.client("publisher")
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        async with one.held() as commits:
            publisher.send(Publish("state", b"new", 1, True, False, 1, {}))
            await commits.arrived()
            await subscriber.subscribe("state", options=1)
        assert (await subscriber.message()).payload == b"new"
        await publisher.expect(PubAck)
        await subscriber.quiet()
        assert await one.storage.inbox_head("c/subscriber") == durable


async def test_a_policy_holds_for_what_is_matched_again() -> None:
    async with cluster(2, policies=[{"filter": "state", "mode": "store"}]) as made:
        one, other = made.nodes
        publisher = await one.client("publisher")
        subscriber = await other.durable("subscriber", 5)
        async with one.held() as commits:
            publisher.send(Publish("state", b"new", 1, True, False, 1, {}))
            await commits.arrived()
            await subscriber.subscribe("state", options=1)
        await publisher.expect(PubAck)
        await subscriber.ping()
        assert await other.storage.inbox_head("c/subscriber") == 0


async def test_entries_of_two_nodes_come_in_the_order_of_the_inbox() -> None:
    """A node that is told of a later entry first reads the earlier one, and takes it once."""
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news", options=1)
        here, there = await other.client("here"), await one.client("there")
        part = one.storage.cluster
        assert part is not None
        real, go_on = part.send, asyncio.Event()

        async def late(parcels: object) -> None:
            await go_on.wait()
            await real(parcels)  # type: ignore[arg-type]

        part.send = late  # type: ignore[method-assign]
        there.send(Publish("news", b"1", 1, False, False, 1, {}))
        await until(lambda: made.database.storage.inbox_head("c/phone"))
        await here.publish("news", b"2")
        assert [message.payload for message in await phone.messages(2)] == [b"1", b"2"]
        go_on.set()
        await there.expect(PubAck)
        await here.publish("news", b"3")
        assert (await phone.message()).payload == b"3"
        await phone.quiet()


# --- one look for two groups -------------------------------------------------------------------------------------------


@asynccontextmanager
async def looks_held(node: Node) -> AsyncIterator[list[asyncio.Event]]:
    """While entered, the node's looks at the routes wait once they have read, each for an event; these."""
    part, looks = node.storage.cluster, list[asyncio.Event]()
    assert part is not None
    assert node.server._cluster is not None
    await node.server._cluster.routes.stop()  # no look but those of groups
    real = part.routes_after

    async def routes_after(after: int, limit: int = 1000) -> list[Route]:
        found = await real(after, limit)
        looks.append(asyncio.Event())
        await looks[-1].wait()
        return found

    part.routes_after = routes_after  # type: ignore[method-assign]
    try:
        yield looks
    finally:
        part.routes_after = real  # type: ignore[method-assign]
        for look in looks:
            look.set()


async def test_the_look_that_ends_a_group_serves_the_next_one_as_far_as_that_had_come() -> None:
    """A message that comes after it began waits for a look of its own: somebody may have subscribed in between."""
    async with cluster(2) as made:
        one, other = made.nodes
        here = await one.durable("here", 5)
        await here.subscribe("first", "second", options=1)
        there = await other.durable("there", 5)
        publisher = await one.client("publisher", 5)
        async with looks_held(one) as looks:
            publisher.send(Publish("first", b"1", 1, False, False, 1, {}))
            await until(lambda: len(looks) == 1)
            publisher.send(Publish("second", b"2", 1, False, False, 2, {}))
            await until(lambda: one.server.pipeline.pending == 1)
            looks[0].set()
            await until(lambda: len(looks) == 2)  # the first message is in its inbox
            await there.subscribe("third", options=1)
            publisher.send(Publish("third", b"3", 1, False, False, 3, {}))
            await until(lambda: one.server.pipeline.pending == 2)
            looks[1].set()
            await publisher.expect(PubAck)
            await until(lambda: len(looks) == 3)
            # the second message's group has not looked before, as what ended the first one's covered it
            assert await one.storage.inbox_head("c/here") == 2
        await publisher.expect(PubAck)
        await publisher.expect(PubAck)
        assert (await there.message()).payload == b"3"
        assert [message.payload for message in await here.messages(2)] == [b"1", b"2"]
