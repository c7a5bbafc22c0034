"""Wills: when they are published, when they are given up, and how long they wait (3.1.2.5, 3.14)."""

from __future__ import annotations

import time

import pytest

from broker.clock import ServerTime
from broker.packets.codes import ReasonCode
from broker.packets.model import Disconnect, Will
from broker.packets.properties import Property
from storage.records import DropSetting, SaveSetting
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client


@pytest.fixture
async def watcher(stored: Broker) -> Client:
    client = await stored.client("watcher", 5)
    await client.subscribe("will/#", options=2)
    return client


def will(payload: bytes = b"gone", **more: object) -> Will:
    return Will("will/c", payload, **more)  # type: ignore[arg-type]


async def test_a_client_that_vanishes_leaves_its_will(stored: Broker, watcher: Client, version: int) -> None:
    """[MQTT-3.1.2-8]"""
    client = await stored.client("c", version, will=will(qos=1))
    await client.drop()
    message = await watcher.message()
    assert (message.topic, message.payload, message.qos, message.retain) == ("will/c", b"gone", 1, False)


async def test_a_client_that_says_goodbye_takes_it_along(stored: Broker, watcher: Client, version: int) -> None:
    """[MQTT-3.1.2-10 of 3.1.1, 3.14.4-3 of 5]"""
    for make in (stored.client, stored.durable):
        client = await make("c", version, will=will())
        await client.leave()
        again = await make("c", version)
        await again.drop()
    await watcher.quiet()


async def test_a_protocol_error_leaves_it(stored: Broker, watcher: Client, version: int) -> None:
    client = await stored.client("c", version, will=will())
    client.send_bytes(b"\x00\x00")
    await client.closed()
    assert (await watcher.message()).payload == b"gone"


async def test_half_a_goodbye_leaves_it(stored: Broker, watcher: Client, version: int) -> None:
    client = await stored.client("c", version, will=will())
    client.send_bytes(b"\xe0")
    await client.drained()
    await client.drop()
    assert (await watcher.message()).payload == b"gone"


async def test_one_that_its_client_may_not_publish_any_more_is_forgotten(version: int) -> None:
    rules = {"no": b'{"deny": "publish", "topics": "will/#"}', "yes": b'{"allow": "all", "topics": "#"}'}
    async with running(plugins={"acl": {}}) as broker:
        watcher = await broker.client("watcher", 5)
        await watcher.subscribe("will/#")
        clean, durable = await broker.client("c", version, will=will()), await broker.durable("d", version, will=will())
        await broker.server.api.commit([SaveSetting("rule", *rule) for rule in rules.items()], 30)
        await broker.lose(clean, "c")
        await broker.lose(durable, "d")
        await broker.server.api.commit([DropSetting("rule", "no")], 30)
        await (await broker.client("e", version, will=will(b"allowed"))).drop()
        assert (await watcher.message()).payload == b"allowed"
        again = await broker.durable("d", version)
        await again.leave()
        await watcher.quiet()


async def test_so_is_one_that_waits() -> None:
    """Not the one behind it, about which no rule has changed."""
    later = [0.0]
    clocks = ServerTime(uptime=lambda: time.monotonic() + later[0])
    async with running(plugins={"acl": {}}, time=clocks) as broker:
        watcher = await broker.client("watcher", 5)
        await watcher.subscribe("will/#")
        for name in ("c", "d"):
            delayed = Will(f"will/{name}", name.encode(), properties={Property.WILL_DELAY: 600})
            await broker.lose(await broker.durable(name, 5, will=delayed), name)
        rules = {"no": b'{"deny": "publish", "topics": "will/c"}', "yes": b'{"allow": "all", "topics": "#"}'}
        await broker.server.api.commit([SaveSetting("rule", *rule) for rule in rules.items()], 30)
        later[0] += 700
        await broker.server.api.expire_sessions()
        assert (await watcher.message()).payload == b"d"
        await watcher.quiet()


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_will_may_be_retained(stored: Broker, watcher: Client, version: int, qos: int) -> None:
    """[MQTT-3.1.2-17 of 3.1.1]"""
    client = await stored.client("c", version, will=will(qos=qos, retain=True))
    await client.drop()
    assert (await watcher.message()).qos == qos
    late = await stored.client("late")
    await late.subscribe("will/c", options=2)
    message = await late.message()
    assert (message.payload, message.qos, message.retain) == (b"gone", qos, True)


async def test_a_will_waits_for_devices_that_are_away(stored: Broker, version: int) -> None:
    """It goes through the same pipeline as any message."""
    reader = await stored.durable("reader", version)
    await reader.subscribe("will/c", options=1)
    await stored.lose(reader, "reader")
    client = await stored.client("c", version, will=will(qos=1))
    await stored.lose(client, "c")
    reader = await stored.durable("reader", version)
    assert (await reader.message()).payload == b"gone"


async def test_an_empty_will_is_published(stored: Broker, watcher: Client, version: int) -> None:
    client = await stored.client("c", version, will=will(b""))
    await client.drop()
    assert (await watcher.message()).payload == b""


async def test_a_reconnect_without_a_will_has_none(stored: Broker, watcher: Client, version: int) -> None:
    client = await stored.durable("c", version, will=will())
    await client.leave()
    client = await stored.durable("c", version)
    await stored.lose(client, "c")
    await watcher.quiet()


@pytest.mark.parametrize("topic", ["$SYS/x", "$share/g/t"])
async def test_a_will_on_a_reserved_topic_is_refused(stored: Broker, version: int, topic: str) -> None:
    client = await stored.socket(version)
    ack = await client.connect("c", will=Will(topic, b""))
    assert ack.reason == (ReasonCode.NOT_AUTHORIZED if version == 5 else 5)
    assert await client.closed() == []
    assert len(stored.server.sessions) == 0


async def test_a_shutdown_publishes_wills(version: int) -> None:
    async with running() as broker:
        reader = await broker.durable("reader", version)
        await reader.subscribe("will/c", options=1)
        await broker.client("c", version, will=will(qos=1))
        await broker.server.stop()
        entries = await broker.server.storage.read_inbox("c/reader", 0, 10)
        assert [entry.message.payload for entry in entries if entry.message] == [b"gone"]


# --- MQTT 5 ----------------------------------------------------------------------------------------------------------


async def test_v5_disconnect_with_will(stored: Broker, watcher: Client) -> None:
    client = await stored.client("c", 5, will=will())
    await client.leave(ReasonCode.DISCONNECT_WITH_WILL)
    assert (await watcher.message()).payload == b"gone"


@pytest.mark.parametrize(
    "goodbye",
    [
        pytest.param(b"\xe0\x07\x00\x05\x11\x00\x00\x00\x64", id="a session to be kept that was to end"),
        pytest.param(b"\xe0\x01\x7f", id="a reason that there is not"),
        pytest.param(b"\xe1\x00", id="flags that must be 0"),
        pytest.param(b"\xe0\x02\x00\x05", id="properties that are missing"),
    ],
)
async def test_v5_a_goodbye_that_is_refused_leaves_it(stored: Broker, watcher: Client, goodbye: bytes) -> None:
    """[MQTT-3.1.2-8]: it is no DISCONNECT, whatever of it can be read."""
    client = await stored.client("c", 5, will=will())
    client.send_bytes(goodbye)
    (told,) = await client.closed()
    assert isinstance(told, Disconnect)
    assert (await watcher.message()).payload == b"gone"
    await watcher.quiet()


@pytest.mark.parametrize("reason", [ReasonCode.UNSPECIFIED_ERROR, ReasonCode.QUOTA_EXCEEDED, ReasonCode.ADMINISTRATIVE_ACTION])
async def test_v5_a_goodbye_with_an_error_leaves_it(stored: Broker, watcher: Client, reason: ReasonCode) -> None:
    """[MQTT-3.1.2-10]: only one with reason 0 takes it along."""
    client = await stored.client("c", 5, will=will())
    await client.leave(reason)
    assert (await watcher.message()).payload == b"gone"


async def test_v5_a_goodbye_may_name_another_expiry_than_the_one_that_was_granted() -> None:
    """3.14.2.2.2 forbids it after a CONNECT without one, and not where the server granted less than was asked."""
    async with running(mqtt={"max_session_expiry": 0}) as broker:
        watcher = await broker.client("watcher", 5)
        await watcher.subscribe("will/#")
        client = await broker.client("c", 5, expiry=50, will=will())
        client.send(Disconnect(0, {Property.SESSION_EXPIRY: 100}))
        assert await client.closed() == []
        await watcher.quiet()


async def test_v5_will_properties_travel(stored: Broker, watcher: Client) -> None:
    sent = {
        Property.CONTENT_TYPE: "text/plain",
        Property.RESPONSE_TOPIC: "answers",
        Property.CORRELATION_DATA: b"\x01\x02",
        Property.PAYLOAD_FORMAT: 1,
        Property.USER_PROPERTY: [("a", "1"), ("a", "2")],
        Property.MESSAGE_EXPIRY: 100,
    }
    client = await stored.client("c", 5, will=will(properties=sent))
    await client.drop()
    told = (await watcher.message()).properties
    assert told.pop(Property.MESSAGE_EXPIRY) in (99, 100)
    assert told == {key: value for key, value in sent.items() if key != Property.MESSAGE_EXPIRY}


async def test_v5_a_delayed_will_waits(stored: Broker, watcher: Client) -> None:
    """[MQTT-3.1.3-9]"""
    client = await stored.durable("c", 5, will=will(properties={Property.WILL_DELAY: 1}))
    clock = stored.server.clock
    before = clock.now()
    await stored.lose(client, "c")
    await watcher.quiet()
    assert (await watcher.message()).payload == b"gone"
    assert clock.now() - before >= 1.0


async def test_v5_a_client_that_comes_back_in_time_keeps_its_delayed_will_unsent(stored: Broker, watcher: Client) -> None:
    delayed = will(properties={Property.WILL_DELAY: 1})
    client = await stored.durable("c", 5, will=delayed)
    await stored.lose(client, "c")
    await stored.durable("c", 5)
    other = await stored.durable("other", 5, will=will(b"other", properties={Property.WILL_DELAY: 1}))
    await stored.lose(other, "other")
    assert (await watcher.message()).payload == b"other"  # whose delay began later


async def test_v5_who_comes_back_without_a_will_has_none_later(stored: Broker, watcher: Client) -> None:
    """Neither the one that waited, nor its delay."""
    client = await stored.durable("c", 5, will=will(properties={Property.WILL_DELAY: 100}))
    await stored.lose(client, "c")
    client = await stored.durable("c", 5)
    await stored.lose(client, "c")
    await stored.client("c", 5)  # a clean start ends the session, and would have its will published at once
    await watcher.quiet()


async def test_v5_takeover_keeps_a_delayed_will_unsent(stored: Broker, watcher: Client) -> None:
    old = await stored.durable("c", 5, will=will(properties={Property.WILL_DELAY: 100}))
    await stored.durable("c", 5)
    await old.closed()
    await watcher.quiet()


async def test_v5_a_clean_start_sends_a_delayed_will_at_once(stored: Broker, watcher: Client) -> None:
    """The session ends, and with it the delay [MQTT-3.1.3-9]."""
    delayed = will(properties={Property.WILL_DELAY: 1000})
    client = await stored.durable("c", 5, will=delayed)
    await stored.lose(client, "c")
    await stored.client("c", 5)
    assert (await watcher.message()).payload == b"gone"
    client = await stored.durable("d", 5, will=delayed)  # connected, and taken over
    await stored.client("d", 5)
    assert (await watcher.message()).payload == b"gone"


async def test_v5_the_end_of_the_session_ends_the_delay(stored: Broker, watcher: Client) -> None:
    client = await stored.durable("c", 5, expiry=1, will=will(properties={Property.WILL_DELAY: 1000}))
    await client.drop()
    assert (await watcher.message()).payload == b"gone"
    client = await stored.client("d", 5, will=will(properties={Property.WILL_DELAY: 1000}))  # expiry 0
    await client.drop()
    assert (await watcher.message()).payload == b"gone"


async def test_v5_expiry_counts_from_the_publishing_of_the_will(stored: Broker, watcher: Client) -> None:
    properties = {Property.WILL_DELAY: 1, Property.MESSAGE_EXPIRY: 1000}
    client = await stored.durable("c", 5, will=will(properties=properties))
    await client.drop()
    assert (await watcher.message()).properties[Property.MESSAGE_EXPIRY] >= 999


async def test_a_will_is_published_once(stored: Broker, watcher: Client, version: int) -> None:
    """However a connection ends, and however often."""
    client = await stored.durable("c", version, will=will())
    client.send_bytes(b"\x00\x00")
    await client.drop()
    assert (await watcher.message()).payload == b"gone"
    again = await stored.durable("c", version)
    await again.leave()
    await until(lambda: stored.server.sessions.named("c")[0].connection is None)
    await watcher.quiet()
