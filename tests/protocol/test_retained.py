"""Retained messages: which are kept, who gets them, and with which RETAIN flag (3.3.1.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.clock import ServerTime
from broker.hooks import Group, GroupPlugin
from broker.packets.model import PubAck, Publish, SubAck, Subscribe
from broker.packets.properties import Properties, Property
from storage.errors import StorageUnavailable
from storage.records import Message
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

RETAIN_AS_PUBLISHED, ONLY_NEW, NEVER = 8, 0x10, 0x20


@pytest.fixture(params=["all in memory", "none in memory"])
async def stored(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    """A broker on each kind of storage, with room for all retained messages and for none."""
    async with running(url, limits={"retained_cache": 128 << 20 if request.param == "all in memory" else 0}) as started:
        yield started


KINDS = pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])


async def make(broker: Broker, durable: bool, name: str, version: int) -> Client:
    return await (broker.durable if durable else broker.client)(name, version)


@KINDS
async def test_a_new_subscription_gets_the_last_retained_message(stored: Broker, version: int, durable: bool) -> None:
    """[MQTT-3.3.1-6, -8 of 3.1.1]: with RETAIN 1; a live one has 0 [MQTT-3.3.1-9 of 3.1.1]."""
    sender, reader = await stored.client("sender"), await make(stored, durable, "reader", version)
    await sender.publish("t/a", b"old", 1, retain=True)
    await sender.publish("t/a", b"last", 1, retain=True)
    await sender.publish("t/a", b"not retained", 1)
    await reader.subscribe("t/a", options=1)
    message = await reader.message()
    assert (message.payload, message.retain, message.qos) == (b"last", True, 1)
    await sender.publish("t/a", b"live", 1, retain=True)
    message = await reader.message()
    assert (message.payload, message.retain) == (b"live", False)
    await reader.quiet()


@KINDS
async def test_only_to_subscriptions_that_match(stored: Broker, version: int, durable: bool) -> None:
    sender, reader = await stored.client("sender"), await make(stored, durable, "reader", version)
    for topic in ("t/a", "t/b/c", "t", "u", "$x/a"):
        await sender.publish(topic, topic.encode(), 1, retain=True)
    await reader.subscribe("t/+", options=1)
    assert [m.topic for m in await reader.messages(1)] == ["t/a"]
    await reader.subscribe("t/#", options=1)
    assert [m.topic for m in await reader.messages(3)] == ["t/a", "t/b/c", "t"]
    await reader.subscribe("#", options=1)
    assert [m.topic for m in await reader.messages(4)] == ["t/a", "t/b/c", "t", "u"]
    await reader.quiet()


@KINDS
async def test_subscribing_again_brings_them_again(stored: Broker, version: int, durable: bool) -> None:
    """[MQTT-3.8.4-3]"""
    sender, reader = await stored.client("sender"), await make(stored, durable, "reader", version)
    await sender.publish("t", b"x", 1, retain=True)
    for _ in range(2):
        await reader.subscribe("t", options=1)
        assert (await reader.message()).retain


async def test_an_empty_payload_clears(stored: Broker, version: int) -> None:
    """[MQTT-3.3.1-10, -11 of 3.1.1]: it is delivered as any message, and kept by nobody."""
    sender, live = await stored.client("sender", version), await stored.client("live", version)
    await sender.publish("t", b"x", 1, retain=True)
    await live.subscribe("t")
    assert (await live.message()).retain
    await sender.publish("t", b"", 1, retain=True)
    message = await live.message()
    assert (message.payload, message.retain) == (b"", False)
    reader = await stored.client("reader", version)
    await reader.subscribe("t")
    await reader.quiet()
    await until(lambda: stored.server.api.status().retained == 0)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_of_any_quality_and_at_the_lower_one(stored: Broker, version: int, qos: int) -> None:
    sender = await stored.client("sender", version)
    await sender.publish("t", b"x", qos, retain=True)
    for options in (0, 1, 2):
        reader = await stored.client(f"reader{options}", version)
        await reader.subscribe("t", options=options)
        assert (await reader.message()).qos == min(qos, options)


async def test_missed_while_away_they_are_ordinary_messages(stored: Broker, version: int) -> None:
    """RETAIN is 1 only for what a new subscription brings, not for what was queued."""
    sender, reader = await stored.client("sender"), await stored.durable("reader", version)
    await reader.subscribe("t", options=1)
    await stored.lose(reader, "reader")
    await sender.publish("t", b"x", 1, retain=True)
    reader = await stored.durable("reader", version)
    assert not (await reader.message()).retain


async def test_a_retained_message_that_was_not_acknowledged_comes_again_as_one(stored: Broker, version: int) -> None:
    sender, reader = await stored.client("sender"), await stored.durable("reader", version)
    await sender.publish("t", b"x", 1, retain=True)
    await reader.subscribe("t", options=1)
    first = await reader.message(finish=False)
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", version)
    again = await reader.message()
    assert (again.packet_id, again.retain, again.dup) == (first.packet_id, True, True)


async def test_only_for_the_device_that_subscribed(stored: Broker, version: int) -> None:
    """Its entry in the inbox is for it alone."""
    sender, reader = await stored.client("sender"), await stored.durable("reader", version)
    await sender.publish("t", b"x", 1, retain=True)
    await reader.subscribe("t", options=1)
    await reader.message()
    await reader.leave()
    reader = await stored.durable("reader", version)
    await reader.quiet()


async def test_retained_and_live_keep_their_order_around_a_subscription(stored: Broker, version: int) -> None:
    """What was before SUBSCRIBE comes retained, what is behind it comes live, each once."""
    for index, name in enumerate(("clean", "durable")):
        client = await make(stored, name == "durable", name, version)
        topic = f"t{index}"
        client.send(
            Publish(topic, b"1", 1, retain=True, packet_id=1),
            Subscribe(2, [(topic, 1)]),
            Publish(topic, b"2", 1, retain=True, packet_id=3),
        )
        packets = [await client.receive() for _ in range(5)]
        assert sum(isinstance(packet, PubAck | SubAck) for packet in packets) == 3
        messages = [packet for packet in packets if isinstance(packet, Publish)]
        assert [(m.payload, m.retain) for m in messages] == [(b"1", True), (b"2", False)]


# --- MQTT 5 ----------------------------------------------------------------------------------------------------------


@KINDS
async def test_v5_retain_as_published(stored: Broker, durable: bool) -> None:
    """[MQTT-3.3.1-12, -13]"""
    sender, reader = await stored.client("sender", 5), await make(stored, durable, "reader", 5)
    await reader.subscribe("t", options=1 | RETAIN_AS_PUBLISHED)
    await sender.publish("t", b"x", 1, retain=True)
    await sender.publish("t", b"y", 1)
    assert [m.retain for m in await reader.messages(2)] == [True, False]


@KINDS
async def test_v5_retain_as_published_by_one_of_several_filters(stored: Broker, durable: bool) -> None:
    sender, reader = await stored.client("sender", 5), await make(stored, durable, "reader", 5)
    await reader.subscribe("t/#", options=1)
    await reader.subscribe("t/a", options=RETAIN_AS_PUBLISHED)
    for topic in ("t/a", "t/b"):
        await sender.publish(topic, b"x", 1, retain=True)
    assert [(m.topic, m.retain, m.qos) for m in await reader.messages(2)] == [("t/a", True, 1), ("t/b", False, 1)]


@KINDS
async def test_v5_retain_handling(stored: Broker, durable: bool) -> None:
    """[MQTT-3.3.1-9 to -11]"""
    sender, reader = await stored.client("sender", 5), await make(stored, durable, "reader", 5)
    await sender.publish("t", b"x", 1, retain=True)
    await reader.subscribe("t", options=1 | NEVER)
    await reader.quiet()
    await reader.subscribe("t", options=1 | ONLY_NEW)
    await reader.quiet()
    await reader.unsubscribe("t")
    await reader.subscribe("t", options=1 | ONLY_NEW)
    assert (await reader.message()).retain
    await reader.subscribe("t", options=1)
    assert (await reader.message()).retain


async def test_v5_properties_are_retained_and_expiry_counts_down(stored: Broker) -> None:
    sender, reader = await stored.client("sender", 5), await stored.client("reader", 5)
    kept: Properties = {Property.CONTENT_TYPE: "text/plain", Property.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "3")]}
    await sender.publish("t", b"x", 1, retain=True, properties={**kept, Property.MESSAGE_EXPIRY: 100})
    await reader.subscribe("t")
    told = (await reader.message()).properties
    assert {key: told[key] for key in kept} == kept
    assert 90 <= told[Property.MESSAGE_EXPIRY] <= 100


async def test_v5_an_expired_one_is_given_to_nobody_new(stored: Broker) -> None:
    """[MQTT-3.3.2-5]"""
    sender = await stored.client("sender", 5)
    await sender.publish("short", b"x", 1, retain=True, properties={Property.MESSAGE_EXPIRY: 1})
    await sender.publish("long", b"x", 1, retain=True, properties={Property.MESSAGE_EXPIRY: 1000})
    stored.server.time.not_before(stored.server.time.now() + 1500)
    reader = await stored.client("reader", 5)
    await reader.subscribe("short", "long")
    assert (await reader.message()).topic == "long"
    await reader.quiet()


async def test_v5_an_expired_one_takes_no_place_any_more(stored: Broker) -> None:
    """Neither in memory nor in storage, nor in what is counted; a topic that has a newer one keeps it."""
    server = stored.server
    sender = await stored.client("sender", 5)
    short: Properties = {Property.MESSAGE_EXPIRY: 1}
    long: Properties = {Property.MESSAGE_EXPIRY: 1000}
    for number in range(3):
        await sender.publish(f"short/{number}", b"x", 1, retain=True, properties=short)
        await sender.publish("often", b"x", 1, retain=True, properties=short)
    await sender.publish("often", b"kept", 1, retain=True)
    await sender.publish("long", b"x", 1, retain=True, properties=long)
    assert await server.storage.retained_count() == 5
    assert not server.retained.whole or server.api.status().retained == 5
    server.time.not_before(server.time.now() + 1500)
    await until(lambda: server.api.status().retained == 2)
    await sender.publish("short/0", b"again", 1, retain=True, properties=long)
    kept = {message.topic: message.payload for message in await server.storage.retained_range("", "", 100)}
    assert kept == {"often": b"kept", "long": b"x", "short/0": b"again"}
    reader = await stored.client("reader", 5)
    await reader.subscribe("#")
    assert {m.topic: m.payload for m in await reader.messages(3)} == kept
    await reader.quiet()


async def test_v5_what_expired_while_the_broker_was_away_goes_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    properties: Properties = {Property.MESSAGE_EXPIRY: 1}
    async with running(url, mqtt={"receive_maximum": 2000}) as broker:
        sender = await broker.client("sender", 5)
        for number in range(1500):
            sender.send(Publish(f"t/{number}", b"x", 1, True, False, number + 1, properties))
        for _ in range(1500):
            await sender.expect(PubAck)
        last = await broker.server.storage.last_id()
    time = ServerTime()
    time.not_before(time.now() + 60_000)
    async with running(url, time=time) as broker:
        await until(lambda: broker.server.api.status().retained == 0)
        await (await broker.client("other")).publish("behind", b"x")
        assert await broker.server.storage.retained_range("", "", 1) == []
        assert await broker.server.storage.last_id() > last


# --- refused messages ------------------------------------------------------------------------------------------------


class Refusing(GroupPlugin):
    """Fails for every message whose payload is ``bad``."""

    async def before_ack(self, group: Group) -> None:
        if any(append.message.payload == b"bad" for append in group.appends):
            raise ValueError("bad payload")


async def test_a_refused_message_leaves_the_retained_one_before_it() -> None:
    plugins: dict[str, dict[str, object]] = {f"{__name__}.Refusing": {}}
    async with running(errors=True, plugins=plugins) as broker:
        sender = await broker.client("sender", 5)
        sender.send(
            Publish("t", b"bad", 1, retain=True, packet_id=1),
            Publish("t", b"good", 1, retain=True, packet_id=2),
            Publish("t", b"bad", 1, retain=True, packet_id=3),
            Publish("u", b"bad", 1, retain=True, packet_id=4),
        )
        reasons = {ack.packet_id: ack.reason for ack in [await sender.expect(PubAck) for _ in range(4)]}
        assert [reasons[n] >= 0x80 for n in (1, 2, 3, 4)] == [True, False, True, True]
        reader = await broker.client("reader", 5)
        await reader.subscribe("#")
        assert (await reader.message()).payload == b"good"
        await reader.quiet()


FIRST: Properties = {Property.USER_PROPERTY: [("message-id", "1")]}
REFUSED: dict[str, Publish] = {
    "by a hook": Publish("t", b"bad", 1, retain=True, packet_id=2),
    "by storage": Publish("t", b"other content", 1, retain=True, packet_id=2, properties=FIRST),
    "as a repeat": Publish("t", b"first", 1, retain=True, packet_id=2, properties=FIRST),
    "by the ACL": Publish("denied/t", b"x", 1, retain=True, packet_id=2),
}


@KINDS
@pytest.mark.parametrize("room", [0, 1 << 20])
@pytest.mark.parametrize("how", REFUSED)
async def test_a_subscription_behind_a_refused_message_gets_the_one_before_it(
    url: str, durable: bool, how: str, room: int
) -> None:
    """Both in one group: whatever refuses the message, nobody is given it (laws 1 and 7)."""
    plugins: dict[str, dict[str, object]] = {f"{__name__}.Refusing": {}, "tests.support.auth_plugins.Fence": {}}
    async with running(url, errors=True, plugins=plugins, limits={"retained_cache": room}) as broker:
        client, other = await make(broker, durable, "client", 5), await broker.client("other", 5)
        await client.publish("t", b"first", 1, retain=True, properties=FIRST)
        await client.publish("t", b"before", 1, retain=True)
        async with in_one_group(broker, other, 2):
            client.send(REFUSED[how], Subscribe(9, [("#", 1)]))
        acks = [await client.receive() for _ in range(2)]
        assert {type(ack) for ack in acks} == {PubAck, SubAck}
        message = await client.message()
        assert (message.payload, message.retain) == (b"before", True)
        await client.quiet()


@KINDS
async def test_a_subscription_behind_an_accepted_message_gets_it_once(stored: Broker, version: int, durable: bool) -> None:
    client, other = await make(stored, durable, "client", version), await stored.client("other")
    await client.publish("t/1", b"before", 1, retain=True)
    async with in_one_group(stored, other, 6):
        client.send(
            Publish("t/1", b"", 1, retain=True, packet_id=1),
            Publish("t/2", b"2", 1, retain=True, packet_id=2),
            Subscribe(9, [("t/+", 1)]),
            Publish("t/3", b"3", 1, retain=True, packet_id=3),
            Subscribe(10, [("t/3", 1)]),
            Publish("t/4", b"4", 1, retain=True, packet_id=4),
        )
    packets = [await client.receive() for _ in range(10)]
    messages = [(p.payload, p.retain) for p in packets if isinstance(p, Publish)]
    assert messages == [(b"2", True), (b"3", False), (b"3", True), (b"4", False)]
    await client.quiet()


# --- where memory has not all of them --------------------------------------------------------------------------------


class Reads:
    """Stands behind a storage's reads of retained messages, so that a test says when one is answered with what it found."""

    def __init__(self, broker: Broker) -> None:
        self._storage = broker.server.storage
        self._real = self._storage.retained_range
        self._go_on = asyncio.Semaphore(0)
        self.waiting = 0
        self.error: Exception | None = None

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        page = await self._real(prefix, after, limit, max_bytes)
        self.waiting += 1
        await self._go_on.acquire()
        self.waiting -= 1
        if self.error is not None:
            raise self.error
        return page

    async def arrived(self) -> None:
        await until(lambda: self.waiting > 0)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._go_on.release()


@asynccontextmanager
async def held_reads(broker: Broker) -> AsyncIterator[Reads]:
    reads = Reads(broker)
    broker.server.storage.retained_range = reads.retained_range  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        reads.let(1000)
        del broker.server.storage.retained_range


@asynccontextmanager
async def without_room(url: str, **more: Any) -> AsyncIterator[Broker]:
    async with running(url, limits={"retained_cache": 0}, **more) as broker:
        yield broker


@KINDS
@pytest.mark.parametrize("filter_", ["t/+", "#", "t/#", "+/+"])
async def test_what_changes_while_storage_is_read_counts(url: str, durable: bool, filter_: str) -> None:
    """Law 4: a subscription gets what is retained at its place, each once, and what comes behind it live."""
    async with without_room(url) as broker:
        sender, reader = await broker.client("sender"), await make(broker, durable, "reader", 5)
        for name in ("kept", "replaced", "cleared", "often"):
            await sender.publish(f"t/{name}", b"old", 1, retain=True)
        async with held_reads(broker) as reads:
            reader.send(Subscribe(1, [(filter_, 1)]))
            await reads.arrived()
            await sender.publish("t/replaced", b"new", 1, retain=True)
            await sender.publish("t/cleared", b"", 1, retain=True)
            await sender.publish("t/added", b"new", 1, retain=True)
            for number in range(20):
                await sender.publish("t/often", b"%d" % number, 1, retain=True)
            await sender.publish("t/live", b"not retained", 1)
        await reader.expect(SubAck)
        messages = await reader.messages(4)
        assert [(m.topic, m.payload, m.retain) for m in messages] == [
            ("t/kept", b"old", True),
            ("t/replaced", b"new", True),
            ("t/added", b"new", True),
            ("t/often", b"19", True),
        ]
        await sender.publish("t/kept", b"live", 1, retain=True)
        message = await reader.message()
        assert (message.payload, message.retain) == (b"live", False)
        await reader.quiet()
        assert not broker.server.retained._readings
        assert not broker.server.retained._stored


async def test_a_client_that_goes_while_storage_is_read_leaves_nothing(url: str) -> None:
    async with without_room(url) as broker:
        sender, reader = await broker.client("sender"), await broker.client("reader", 5)
        await sender.publish("t/1", b"x", 1, retain=True)
        async with held_reads(broker) as reads:
            reader.send(Subscribe(1, [("t/+", 1)]))
            await reads.arrived()
            await sender.publish("t/2", b"x", 1, retain=True)
            assert broker.server.retained._stored  # kept for the reading
            await broker.lose(reader, "reader")
        await until(lambda: not broker.server.retained._readings and not broker.server.retained._stored)


async def test_a_subscription_waits_for_storage_that_is_away(url: str) -> None:
    """Law 6: it is answered once storage is back; others go on meanwhile."""
    async with without_room(url) as broker:
        sender, reader = await broker.client("sender"), await broker.client("reader", 5)
        await sender.publish("t/1", b"x", 1, retain=True)
        async with held_reads(broker) as reads:
            reads.error = StorageUnavailable("away")
            reader.send(Subscribe(1, [("t/+", 1)]))
            await reads.arrived()
            reads.let()
            await sender.publish("t/2", b"y", 1, retain=True)
            await until(lambda: reads.waiting == 1)
            reads.error = None
        await reader.expect(SubAck)
        assert [m.payload for m in await reader.messages(2)] == [b"x", b"y"]


async def test_memory_holds_what_fits_and_storage_has_the_rest(tmp_path: Path) -> None:
    """Across a restart, and from there on."""
    url, limits = f"sqlite:///{tmp_path}/broker.db", {"retained_cache": 20_000}
    async with running(url, limits=limits) as broker:
        sender = await broker.client("sender", 5)
        for number in range(100):
            await sender.publish(f"t/{number:02}", b"x", 1, retain=True)
            assert broker.server.retained._bytes <= 20_000
        await until(lambda: broker.server.api.status().retained == 100)
    async with running(url, limits=limits) as broker:
        assert broker.server.api.status().retained == 100
        assert 0 < broker.server.retained._bytes <= 20_000
        reader = await broker.client("reader", 5)
        every = [f"t/{number:02}" for number in range(100)]
        for filter_, wanted in (
            ("t/50", ["t/50"]),
            ("t/99", ["t/99"]),
            ("t/7", []),
            ("t/+", every),
        ):
            await reader.subscribe(filter_, options=1)
            assert [m.topic for m in await reader.messages(len(wanted))] == wanted
        await reader.quiet()


@asynccontextmanager
async def in_one_group(broker: Broker, other: Client, count: int) -> AsyncIterator[None]:
    """What is sent while entered, ``count`` operations, waits for one group."""
    async with broker.held() as commits:
        other.send(Publish("elsewhere", b"", 1, packet_id=1))
        await commits.arrived()
        yield
        await until(lambda: broker.server.pipeline.pending == count)
    await other.expect(PubAck)
