"""SUBSCRIBE and UNSUBSCRIBE: what matches, what is answered, what a repeat changes (3.8 to 3.11, 4.7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import PubAck, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe
from broker.packets.properties import Property
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

NO_LOCAL, RETAIN_AS_PUBLISHED = 4, 8


async def got(reader: Client, sender: Client, marker: str = "marker") -> list[str]:
    """The topics that come before the marker, to whose topic the reader is subscribed."""
    await sender.publish(marker, b"", 0)
    topics = []
    while (topic := (await reader.message()).topic) != marker:
        topics.append(topic)
    return topics


@pytest.mark.parametrize(
    ("name", "matching", "others"),
    [
        ("a/b", ["a/b"], ["a", "a/b/c", "/a/b", "A/b", "a/b/"]),
        ("+", ["a", "b"], ["a/b", "/a", "$x"]),
        ("+/+", ["a/b", "/a", "a/"], ["a", "a/b/c", "$x/a"]),
        ("/+", ["/a", "/"], ["a", "a/b"]),
        ("a/+/c", ["a/b/c", "a//c"], ["a/c", "a/b/c/d"]),
        ("a/#", ["a", "a/b", "a/b/c", "a/"], ["b", "ab", "/a"]),
        ("+/#", ["a", "a/b", "/"], ["$x/a", "$x"]),
        ("$x/#", ["$x", "$x/a"], ["x/a", "$y/a"]),
        ("$x/+", ["$x/a"], ["$x/a/b"]),
        ("a b/é", ["a b/é"], ["a b/e"]),
    ],
)
async def test_filters(broker: Broker, version: int, name: str, matching: list[str], others: list[str]) -> None:
    reader, sender = await broker.client("reader", version), await broker.client("sender")
    await reader.subscribe(name, "marker")
    for topic in [*others, *matching]:
        await sender.publish(topic, b"", 0)
    assert await got(reader, sender) == matching


async def test_everything_but_dollar_topics(broker: Broker, version: int) -> None:
    """[MQTT-4.7.2-1]"""
    reader, sender = await broker.client("reader", version), await broker.client("sender")
    await reader.subscribe("#")
    for topic in ("a", "$hidden", "$hidden/a", "/", "a/$b"):
        await sender.publish(topic, b"", 0)
    assert await got(reader, sender) == ["a", "/", "a/$b"]


@pytest.mark.parametrize(
    ("filter_", "told"),
    [
        (
            "$delayed/#",
            "filter '$delayed/#': what is below $delayed/ waits; subscribe to the topic that it is published to",
        ),
        ("$delayed/+/a", "filter '$delayed/+/a': what is below $delayed/ waits"),
        ("$share/g/$delayed/#", "filter '$share/g/$delayed/#': what is below $delayed/ waits"),
        ("$share/g/$sync/reply/c", "filter '$share/g/$sync/reply/c': below $sync/ there are '$sync/reply/c'"),
        ("$sync/#", "filter '$sync/#': below $sync/ there are '$sync/reply/c', '$sync/events/c', '$sync/receipts/c'"),
    ],
)
async def test_what_nobody_may_subscribe_to_is_refused_in_words(broker: Broker, filter_: str, told: str) -> None:
    """Without any plugin that gives it a meaning, or rules."""
    client = await broker.client("c", 5, properties={Property.REQUEST_PROBLEM_INFORMATION: 1})
    client.send(Subscribe(1, [("a", 0), (filter_, 1)]))
    ack = await client.expect(SubAck)
    assert ack.reasons == [0, ReasonCode.NOT_AUTHORIZED]
    assert ack.properties[Property.REASON_STRING].startswith(told)
    old = await broker.client("old", 4)
    assert await old.subscribe(filter_) == [0x80]


async def test_suback_has_a_code_for_each_filter_in_order(stored: Broker, version: int) -> None:
    """[MQTT-3.8.4-4, -5; 3.9.3-1]"""
    client = await stored.durable("c", version)
    client.send(Subscribe(77, [("a", 2), ("b/+", 0), ("c/#", 1), ("a", 1)]))
    assert await client.expect(SubAck) == SubAck(77, [2, 0, 1, 1])


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_overlapping_filters_give_one_copy_with_the_highest_qos(stored: Broker, version: int, durable: bool) -> None:
    """[MQTT-3.3.5-1] of 3.1.1, one of the two ways that 5 allows"""
    reader = await (stored.durable if durable else stored.client)("reader", version)
    sender = await stored.client("sender")
    reader.send(Subscribe(1, [("t/#", 0), ("t/a", 2), ("t/+", 1), ("marker", 0)]))
    await reader.expect(SubAck)
    await sender.publish("t/a", b"x", 2)
    assert (await reader.message()).qos == 2
    assert await got(reader, sender) == []


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_subscribing_again_replaces(stored: Broker, version: int, durable: bool) -> None:
    """[MQTT-3.8.4-3]"""
    reader = await (stored.durable if durable else stored.client)("reader", version)
    sender = await stored.client("sender")
    await reader.subscribe("t", options=2)
    await reader.subscribe("t", options=0)
    await sender.publish("t", b"x", 2)
    assert (await reader.message()).qos == 0
    assert len(list(stored.server.api.subscriptions())) == 1
    await reader.unsubscribe("t")
    await sender.publish("t", b"x", 2)
    await reader.quiet()


async def test_subscribing_again_after_a_reconnect_loses_nothing(stored: Broker, version: int) -> None:
    """Stock clients subscribe on each connect; what was missed is still due (DESIGN.md, since)."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await stored.lose(reader, "reader")
    for number in range(3):
        await sender.publish("t", str(number).encode(), 1)
    reader = await stored.durable("reader", version)
    reader.send(Subscribe(1, [("t", 1)]))
    packets = [await reader.receive() for _ in range(4)]
    assert [p.payload for p in packets if isinstance(p, Publish)] == [b"0", b"1", b"2"]


async def test_subscribing_twice_over_two_groups_loses_nothing(stored: Broker, version: int) -> None:
    """The second SUBSCRIBE is applied when the first is durable and not yet answered; the message between is due."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    pipeline = stored.server.pipeline
    async with stored.held() as commits:
        sender.send(Publish("elsewhere", b"", 1, packet_id=1))
        await commits.arrived()
        reader.send(Subscribe(1, [("t", 1)]))
        await until(lambda: pipeline.pending == 1)
        sender.send(Publish("t", b"between", 1, packet_id=2))
        await until(lambda: pipeline.pending == 2)
        commits.let()
        await until(lambda: len(commits.waiting) == 2)
        reader.send(Subscribe(2, [("t", 1)]))
        await until(lambda: pipeline.pending == 1)
    packets = [await reader.receive() for _ in range(3)]
    assert [p.payload for p in packets if isinstance(p, Publish)] == [b"between"]


async def test_a_subscription_whose_client_left_before_suback_holds(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    async with stored.held() as commits:
        reader.send(Subscribe(1, [("t", 1)]))
        await commits.arrived()
        await stored.lose(reader, "reader")
        commits.open = True
        commits.let()
    await sender.publish("t", b"due", 1)
    reader = await stored.durable("reader", version)
    assert (await reader.message()).payload == b"due"


async def test_a_new_filter_starts_where_it_came(url: str, version: int) -> None:
    """Another device's filter had brought the same topic's entries into the inbox, and the new one's device has not come to the
    last of them; it asks for nothing old."""
    ann: dict[str, Any] = {"username": "ann", "password": b"ann"}
    plugins: dict[str, Any] = {"tests.support.laws_auth.NameIsPassword": {}}
    async with running(url, plugins=plugins, mqtt={"inflight_window": 1}) as broker:
        reader, twin = [await broker.durable(name, version, **ann) for name in ("reader", "twin")]
        sender = await broker.client("sender", username="bob", password=b"bob")
        await reader.subscribe("other", options=1)
        await twin.subscribe("t", options=1)
        await broker.lose(reader, "reader")
        for topic, payload in (("other", b"first"), ("other", b"waits"), ("t", b"before")):
            await sender.publish(topic, payload)
        reader = await broker.durable("reader", version, **ann)
        first = await reader.message(finish=False)
        await reader.subscribe("t", options=1)
        await sender.publish("t", b"after")
        reader.send(PubAck(first.packet_id))
        assert [message.payload for message in await reader.messages(2)] == [b"waits", b"after"]
        assert [message.payload for message in await twin.messages(2)] == [b"before", b"after"]


async def test_unsuback_says_what_there_was(stored: Broker, version: int) -> None:
    client = await stored.durable("c", version)
    await client.subscribe("a")
    packet_id = client.new_id()
    client.send(Unsubscribe(packet_id, ["a", "b"]))
    ack = await client.expect(UnsubAck)
    assert ack.packet_id == packet_id
    assert ack.reasons == ([0, ReasonCode.NO_SUBSCRIPTION_EXISTED] if version == 5 else [])


async def test_too_many_subscriptions_are_refused(version: int) -> None:
    async with running(mqtt={"max_subscriptions": 2, "max_topic_levels": 3}) as broker:
        client = await broker.client("c", version)
        await client.subscribe("a", "b")
        assert await client.subscribe("c") == [ReasonCode.QUOTA_EXCEEDED if version == 5 else 0x80]
        assert await client.subscribe("a", options=1) == [1]
        await client.unsubscribe("b")
        assert await client.subscribe("c/d/e") == [0]
        await client.unsubscribe("a")
        assert await client.subscribe("c/d/e/f") == [ReasonCode.TOPIC_FILTER_INVALID if version == 5 else 0x80]


async def test_too_many_subscriptions_at_once(version: int) -> None:
    """In one packet, and in several before the first is granted."""
    refused = ReasonCode.QUOTA_EXCEEDED if version == 5 else 0x80
    async with running(mqtt={"max_subscriptions": 3}) as broker:
        client = await broker.client("c", version)
        client.send(
            Subscribe(1, [("a", 0), ("b", 1)]), Subscribe(2, [("b", 0), ("c", 1), ("d", 0), ("a", 1)]), Subscribe(3, [("e", 0)])
        )
        acks = [await client.expect(SubAck) for _ in range(3)]
        assert [ack.reasons for ack in acks] == [[0, 1], [0, 1, refused, 1], [refused]]
        (session,) = broker.server.sessions.named("c")
        assert set(session.subscriptions) == {"a", "b", "c"}


async def test_no_subscription_is_left_when_its_sessions_are(broker: Broker, version: int) -> None:
    clients = [await broker.client(f"c{n}", version) for n in range(5)]
    for client in clients:
        await client.subscribe("a/+", "b/#", "c")
    assert broker.server.trie.count == 15
    for client in clients:
        await client.leave()
    await until(lambda: broker.server.trie.count == 0)


# --- MQTT 5 ----------------------------------------------------------------------------------------------------------


async def test_v5_no_local(stored: Broker) -> None:
    """[MQTT-3.8.3-3]"""
    for index, make in enumerate([stored.client, stored.durable]):
        client, other = await make(f"c{index}", 5), await stored.client(f"o{index}", 5)
        topic = f"t{index}"
        await client.subscribe(topic, options=1 | NO_LOCAL)
        await client.publish(topic, b"mine", 1)
        await other.publish(topic, b"theirs", 1)
        assert (await client.message()).payload == b"theirs"
        await client.subscribe(topic, options=1)
        client.send(Publish(topic, b"mine now", 1, packet_id=99))
        packets = [await client.receive(), await client.receive()]
        assert {type(packet) for packet in packets} == {PubAck, Publish}


async def test_v5_no_local_by_several_filters(stored: Broker) -> None:
    """Only by those that want it; with the QoS and the identifiers of the others."""
    client, other = await stored.durable("c", 5), await stored.client("o", 5)
    await client.subscribe("t/#", options=1 | NO_LOCAL, properties={Property.SUBSCRIPTION_IDENTIFIER: 1})
    await client.subscribe("t/+", options=1 | NO_LOCAL, properties={Property.SUBSCRIPTION_IDENTIFIER: 2})
    await client.publish("t/a", b"mine")
    await client.quiet()
    await client.subscribe("t/b", properties={Property.SUBSCRIPTION_IDENTIFIER: 3})
    client.send(Publish("t/b", b"mine too", 1, packet_id=99))
    packets = [await client.receive(), await client.receive()]
    (message,) = [packet for packet in packets if isinstance(packet, Publish)]
    assert (message.qos, message.properties[Property.SUBSCRIPTION_IDENTIFIER]) == (0, [3])
    await other.publish("t/b", b"theirs")
    message = await client.message()
    assert (message.qos, sorted(message.properties[Property.SUBSCRIPTION_IDENTIFIER])) == (1, [1, 2, 3])


async def test_v5_no_local_is_about_one_s_own_alone() -> None:
    """A device of another user may have the same client id; and what it retained itself comes to who subscribes."""
    async with running(plugins={"tests.support.laws_auth.NameIsPassword": {}}) as broker:
        ann, bob = [await broker.durable("phone", 5, username=name, password=name.encode()) for name in ("ann", "bob")]
        await ann.publish("t", b"kept", retain=True)
        for client in (ann, bob):
            await client.subscribe("t", options=1 | NO_LOCAL)
            message = await client.message()
            assert (message.payload, message.retain) == (b"kept", True)
        await ann.publish("t", b"of ann")
        assert (await bob.message()).payload == b"of ann"
        await ann.quiet()


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_v5_subscription_identifiers(stored: Broker, durable: bool) -> None:
    """[MQTT-3.3.4-3, -4, -5]: every one that matches, in one copy."""
    reader, sender = await (stored.durable if durable else stored.client)("reader", 5), await stored.client("sender")
    await reader.subscribe("t/#", properties={Property.SUBSCRIPTION_IDENTIFIER: 1})
    await reader.subscribe("t/a", properties={Property.SUBSCRIPTION_IDENTIFIER: 268435455})
    await reader.subscribe("t/+")
    await sender.publish("t/a", b"", 1)
    message = await reader.message()
    assert sorted(message.properties[Property.SUBSCRIPTION_IDENTIFIER]) == [1, 268435455]
    await sender.publish("t/b", b"", 1)
    assert (await reader.message()).properties[Property.SUBSCRIPTION_IDENTIFIER] == [1]
    await reader.subscribe("t/#")  # again, without
    await sender.publish("t/b", b"", 1)
    assert Property.SUBSCRIPTION_IDENTIFIER not in (await reader.message()).properties


async def test_v5_subscription_identifiers_survive_a_reconnect(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender")
    await reader.subscribe("t", options=1, properties={Property.SUBSCRIPTION_IDENTIFIER: 5})
    await sender.publish("t", b"", 1)
    await reader.message(finish=False)
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5)
    message = await reader.message()
    assert message.dup
    assert message.properties[Property.SUBSCRIPTION_IDENTIFIER] == [5]


class Secretive:
    """A topic plugin. ``immediate``: it answers at once."""

    auth_plugins = ()

    def __init__(self, immediate: bool) -> None:
        self.topic_plugins = [self]
        self.immediate = immediate
        self.asked: list[str] = []

    async def topic_filtering(self, *, session: object, topic: str, action: object) -> bool:
        if not self.immediate:
            await asyncio.sleep(0)
        self.asked.append(topic)
        return not topic.startswith("secret")


@pytest.mark.parametrize("immediate", [False, True], ids=["waits", "at once"])
async def test_an_acl_decides_each_filter(broker: Broker, version: int, immediate: bool) -> None:
    client, plugin = await broker.client("c", version), Secretive(immediate)
    broker.server.access.use(plugin)
    client.send(Subscribe(1, [("a", 1), ("secret/#", 1), ("$share/g/secret/x", 1), ("b", 0)]))
    ack = await client.expect(SubAck)
    denied = ReasonCode.NOT_AUTHORIZED if version == 5 else 0x80
    assert ack.reasons == [1, denied, denied, 0]
    assert plugin.asked == ["a", "secret/#", "secret/x", "b"]
