"""Conversations on several nodes: members' devices follow on all of them, and who is removed is out at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.packets import ReasonCode
from plugins.conversations import ConversationsPlugin
from plugins.conversations.service import Conversations
from plugins.timelines import Conflict, Who
from storage.errors import StorageUnavailable
from tests.support.cluster import Node, cluster
from tests.support.until import until

PLUGINS: dict[str, Any] = {"conversations": {}, "requests": {}}
ANN, BOB, CID = Who("c/ann"), Who("c/bob"), Who("c/cid")


def conversations(node: Node) -> Conversations:
    plugin = node.server.api.plugin(ConversationsPlugin)
    assert plugin is not None
    return plugin.service


async def test_devices_on_all_nodes_follow_and_who_is_removed_is_out_at_once() -> None:
    async with cluster(3, plugins=PLUGINS) as made:
        one, other, third = made.nodes
        bob, cid = await other.durable("bob", 5), await third.client("cid", 5)
        ann = await one.client("ann", 5)
        topic = (await conversations(one).create(ANN, "group", members=[BOB.user, CID.user]))["topic"]
        assert await ann.publish(topic, b"one", qos=1) == 0
        for device in (ann, bob, cid):
            assert (await device.message()).payload == b"one"
        await conversations(third).remove(ANN, topic, BOB.user)
        assert await bob.publish(topic, b"still here", qos=1) == ReasonCode.NOT_AUTHORIZED
        assert await cid.publish(topic, b"two", qos=1) == 0
        assert (await ann.message()).payload == (await cid.message()).payload == b"two"
        await bob.quiet()
        assert await conversations(other).about(CID, topic) == await conversations(one).about(CID, topic)


async def test_of_two_last_owners_that_leave_at_once_one_stays() -> None:
    async with cluster(2, plugins=PLUGINS) as made:
        one, other = made.nodes
        topic = (await conversations(one).create(ANN, "group", members=[BOB.user, CID.user]))["topic"]
        await conversations(one).put(ANN, topic, BOB.user, "owner")

        async def leave(node: Node, who: Who) -> bool:
            try:
                await conversations(node).remove(who, topic, who.user)
            except Conflict:
                return False
            return True

        left = await asyncio.gather(leave(one, ANN), leave(other, BOB))
        assert sorted(left) == [False, True]
        stays = (ANN, BOB)[left.index(False)]
        assert (await conversations(one).about(stays, topic))["owners"] == [stays.user]
        assert (await conversations(other).about(CID, topic))["owners"] == [stays.user]


async def test_what_a_node_that_died_left_half_done_another_one_finishes() -> None:
    async with cluster(2, plugins=PLUGINS, lease=1.0, errors=True) as made:
        one, other = made.nodes
        await other.durable("bob", 5)
        service = conversations(one)
        topic = (await service.create(ANN, "group"))["topic"]

        async def dies(topic: str, user: str) -> None:
            await one.kill()
            raise StorageUnavailable("the node is dead")

        service.members.settle = dies  # type: ignore[method-assign]
        with pytest.raises(StorageUnavailable):
            await service.put(ANN, topic, BOB.user)
        assert await conversations(other).members.finish(other.server.time.wall() + 1) == 1
        assert topic in [s.filter for s in other.server.sessions.of(BOB.user)[0].subscriptions.values()]
        assert await conversations(other).members.store.work("") == []


async def test_a_device_that_comes_while_its_user_is_added_follows_all_the_same() -> None:
    async with cluster(2, plugins=PLUGINS) as made:
        one, other = made.nodes
        topics = [(await conversations(one).create(ANN, "group", members=[BOB.user]))["topic"] for _ in range(3)]
        await other.durable("bob", 5)

        def followed() -> bool:
            (session,) = other.server.sessions.of(BOB.user)
            return set(topics) <= session.subscriptions.keys()

        await until(followed, "the device follows")
