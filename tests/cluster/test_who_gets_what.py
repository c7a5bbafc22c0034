"""A SUBACK on one node binds a PUBLISH on any other, whatever kind of session it is; each message once, and in its publisher's
order."""

from __future__ import annotations

import pytest

from broker.packets import ReasonCode
from tests.support.cluster import cluster
from tests.support.until import until

POLICIES = [{"filter": "live/#", "mode": "store"}, {"filter": "none/#", "mode": "none"}]


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("topic", ["news", "live/news", "none/news"])
@pytest.mark.parametrize("wildcard", [False, True], ids=["exact", "wildcard"])
async def test_a_suback_on_one_node_binds_a_publish_on_another(durable: bool, topic: str, wildcard: bool) -> None:
    async with cluster(2, policies=POLICIES) as made:
        one, other = made.nodes
        publisher = await one.client("publisher")
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        for number in range(20):
            name = f"{topic}/{number}"
            assert await subscriber.subscribe(f"{name}/#" if wildcard else name, options=1) == [1]
            await publisher.publish(name, b"%d" % number)
            message = await subscriber.message()
            assert (message.topic, message.payload) == (name, b"%d" % number)
        await subscriber.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_publisher_is_told_whether_anybody_is_subscribed_on_whichever_node(durable: bool, qos: int) -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await one.client("publisher", 5)
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        await subscriber.subscribe("news", options=0)
        assert await publisher.publish("news", b"hello", qos) == ReasonCode.SUCCESS
        assert await publisher.publish("nobody", b"hello", qos) == ReasonCode.NO_MATCHING_SUBSCRIBERS
        assert (await subscriber.message()).payload == b"hello"
        await subscriber.unsubscribe("news")
        assert await publisher.publish("news", b"hello", qos) == ReasonCode.NO_MATCHING_SUBSCRIBERS


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("wildcard", [False, True], ids=["exact", "wildcard"])
async def test_what_one_node_retains_a_subscriber_of_another_gets(durable: bool, wildcard: bool) -> None:
    """However new it is."""
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await one.client("publisher")
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        for number in range(20):
            name = f"state/{number}"
            await publisher.publish(name, b"old", retain=True)
            await publisher.publish(name, b"%d" % number, retain=True)
            assert await subscriber.subscribe(f"{name}/#" if wildcard else name, options=1) == [1]
            message = await subscriber.message()
            assert (message.topic, message.payload, message.retain) == (name, b"%d" % number, True)
        await publisher.publish("state/0", b"", retain=True)
        await subscriber.message()
        assert await subscriber.subscribe("state/0", options=1) == [1]
        await subscriber.quiet()


async def test_a_node_knows_at_once_that_a_device_of_its_own_is_away() -> None:
    """Also while it does not reach the database, where the others will read it."""
    async with cluster(2, errors=True, lease=20.0) as made:
        one, other = made.nodes
        phone = await one.durable("phone")
        await phone.subscribe("news", options=1)
        for node in made.nodes:
            part = node.server._cluster
            assert part is not None
            await until(lambda: any(part.routes.nodes_of("c/phone")))  # noqa: B023
            assert not list(node.server.api.users_away("news"))
        one.freeze()
        await one.lose(phone, "phone")
        assert list(one.server.api.users_away("news")) == ["c/phone"]
        one.thaw()
        await until(lambda: list(other.server.api.users_away("news")) == ["c/phone"])
