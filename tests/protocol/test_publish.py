"""PUBLISH from a client, and its acknowledgements (4.3)."""

from __future__ import annotations

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import Disconnect, PubAck, PubComp, Publish, PubRec, PubRel, Will
from tests.support.auth_plugins import Hesitant
from tests.support.broker import Broker, running
from tests.support.wire import Client


@pytest.fixture
async def watcher(stored: Broker) -> Client:
    client = await stored.client("watcher")
    await client.subscribe("t/#", options=2)
    return client


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_each_quality_of_service(stored: Broker, watcher: Client, version: int, qos: int) -> None:
    sender = await stored.client("sender", version)
    assert await sender.publish("t/a", b"payload", qos) == 0
    message = await watcher.message()
    assert (message.topic, message.payload, message.qos) == ("t/a", b"payload", qos)
    assert (message.retain, message.dup) == (False, False)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"x" * 100_000])
async def test_any_payload(stored: Broker, watcher: Client, version: int, payload: bytes) -> None:
    sender = await stored.client("sender", version)
    await sender.publish("t/a", payload, 1)
    assert (await watcher.message()).payload == payload


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_no_message_overtakes_one_that_awaits_the_acls_answer(version: int, qos: int) -> None:
    """[MQTT-4.6.0-6], whether it came in one piece with it or after it."""
    async with running(plugins={"tests.support.auth_plugins.Hesitant": {}}) as broker:
        plugin = next(p for p in broker.server.plugin_host.plugins.topic_plugins if isinstance(p, Hesitant))
        watcher, sender = await broker.client("watcher"), await broker.client("sender", version)
        await watcher.subscribe("#", options=1)
        wanted = ["slow/1", "fast/2", "slow/3", "fast/4", "fast/5"]
        packets = [Publish(topic, b"", qos, packet_id=number if qos else 0) for number, topic in enumerate(wanted, 1)]
        sender.send(*packets[:3])
        await plugin.asked.wait()
        sender.send(*packets[3:])
        await sender.drained()
        await watcher.quiet()
        plugin.answer.set()
        assert [message.topic for message in await watcher.messages(5)] == wanted


async def test_a_plugin_that_is_cancelled_from_within_costs_one_message() -> None:
    """! And not the connection, which would wait for that answer for ever."""
    async with running(plugins={"tests.support.auth_plugins.Hesitant": {}}, errors=True) as broker:
        sender = await broker.client("sender", 5)
        assert await sender.publish("cancelled/a", b"x", 1) == ReasonCode.NOT_AUTHORIZED
        assert await sender.publish("t", b"x", 1) == ReasonCode.NO_MATCHING_SUBSCRIBERS


async def test_acks_come_in_the_order_of_messages(stored: Broker, version: int) -> None:
    """[MQTT-4.6.0-2]"""
    sender = await stored.client("sender", version)
    ids = [9, 3, 65535, 1, 4]
    sender.send(*(Publish("t", b"", 1, packet_id=packet_id) for packet_id in ids))
    assert [(await sender.expect(PubAck)).packet_id for _ in ids] == ids
    sender.send(*(Publish("t", b"", 2, packet_id=packet_id) for packet_id in ids))
    assert [(await sender.expect(PubRec)).packet_id for _ in ids] == ids
    sender.send(*(PubRel(packet_id) for packet_id in ids))
    assert [(await sender.expect(PubComp)).packet_id for _ in ids] == ids


async def test_messages_reach_a_subscriber_in_order(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.client("sender", version)
    sender.send(*(Publish("t/n", str(n).encode(), 1, packet_id=n) for n in range(1, 301)))
    assert [(await watcher.message()).payload for _ in range(300)] == [str(n).encode() for n in range(1, 301)]
    assert [(await sender.expect(PubAck)).packet_id for _ in range(300)] == list(range(1, 301))


async def test_a_qos_1_message_sent_again_is_a_message(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.client("sender", version)
    sender.send(Publish("t", b"x", 1, packet_id=1), Publish("t", b"x", 1, dup=True, packet_id=1))
    assert [(await sender.expect(PubAck)).packet_id for _ in range(2)] == [1, 1]
    await watcher.messages(0)
    first, second = await watcher.message(), await watcher.message()
    assert (first.dup, second.dup) == (False, False)  # [MQTT-3.3.1-3]


async def test_a_qos_2_message_sent_again_is_stored_once(stored: Broker, watcher: Client, version: int) -> None:
    """[MQTT-4.3.3-10]"""
    sender = await stored.client("sender", version)
    sender.send(Publish("t", b"once", 2, packet_id=1), Publish("t", b"once", 2, dup=True, packet_id=1))
    await sender.expect(PubRec)
    sender.send(Publish("t", b"once", 2, dup=True, packet_id=1))
    assert (await sender.expect(PubRec)).packet_id == 1
    sender.send(PubRel(1))
    assert (await sender.expect(PubComp)).reason == 0
    await sender.publish("t", b"marker", 0)
    assert [m.payload for m in [await watcher.message(), await watcher.message()]] == [b"once", b"marker"]


async def test_a_qos_2_identifier_is_free_again_after_pubcomp(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.client("sender", version)
    for payload in (b"one", b"two"):
        sender.send(Publish("t", payload, 2, packet_id=7))
        await sender.expect(PubRec)
        sender.send(PubRel(7))
        await sender.expect(PubComp)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"one", b"two"]


async def test_a_release_that_overtakes_pubrec_leaves_nothing_behind(stored: Broker, watcher: Client, version: int) -> None:
    """A client may not do this, but its next message with the identifier must not be taken for the same one."""
    sender = await stored.client("sender", version)
    sender.send(Publish("t", b"one", 2, packet_id=7), PubRel(7))
    assert {type(await sender.receive()) for _ in range(2)} == {PubRec, PubComp}
    sender.send(Publish("t", b"two", 2, packet_id=7))
    await sender.expect(PubRec)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"one", b"two"]


async def test_an_unknown_release_is_answered(stored: Broker, version: int) -> None:
    """[MQTT-4.3.3-11]; in 3.1.1 there is no other answer."""
    sender = await stored.client("sender", version)
    sender.send(PubRel(4711))
    done = await sender.expect(PubComp)
    assert done.packet_id == 4711
    assert done.reason == (ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if version == 5 else 0)


async def test_a_release_that_comes_again_with_its_session_was_a_success(stored: Broker, version: int) -> None:
    """The first PUBCOMP was lost with the connection. Clients tell their application of a code that is no success."""
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"", 2, packet_id=1))
    await sender.expect(PubRec)
    sender.send(PubRel(1))
    await sender.expect(PubComp)
    await stored.lose(sender, "sender")
    again = await stored.durable("sender", version)
    again.send(PubRel(1))
    assert await again.expect(PubComp) == PubComp(1)


async def test_a_release_twice_is_answered_twice(stored: Broker, version: int) -> None:
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"", 2, packet_id=1))
    await sender.expect(PubRec)
    sender.send(PubRel(1))
    await sender.expect(PubComp)
    sender.send(PubRel(1))
    assert (await sender.expect(PubComp)).packet_id == 1


async def test_a_qos_2_message_is_once_over_a_reconnect_before_pubrec(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"once", 2, packet_id=5))
    await sender.expect(PubRec)  # it is stored, but say that the answer was lost
    await sender.drop()
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"once", 2, dup=True, packet_id=5))
    await sender.expect(PubRec)
    sender.send(PubRel(5))
    await sender.expect(PubComp)
    await sender.publish("t", b"marker", 1)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"once", b"marker"]


async def test_a_qos_2_release_survives_a_reconnect(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"once", 2, packet_id=5))
    await sender.expect(PubRec)
    await sender.drop()
    sender = await stored.durable("sender", version)
    sender.send(PubRel(5))
    done = await sender.expect(PubComp)
    assert (done.packet_id, done.reason) == (5, 0)
    await sender.publish("t", b"marker", 1)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"once", b"marker"]


async def test_a_clean_start_forgets_received_identifiers(stored: Broker, watcher: Client, version: int) -> None:
    sender = await stored.durable("sender", version)
    sender.send(Publish("t", b"old", 2, packet_id=5))
    await sender.expect(PubRec)
    await sender.drop()
    sender = await stored.client("sender", version)
    sender.send(Publish("t", b"new", 2, packet_id=5))
    await sender.expect(PubRec)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"old", b"new"]


async def test_everything_acknowledged_is_kept_when_the_publisher_leaves_at_once(stored: Broker, version: int) -> None:
    reader = await stored.durable("reader", version)
    await reader.subscribe("t", options=1)
    await reader.drop()
    sender = await stored.client("sender", version)
    sender.send(*(Publish("t", str(n).encode(), 1, packet_id=n) for n in range(1, 301)))
    for _ in range(300):
        await sender.expect(PubAck)
    await sender.drop()
    reader = await stored.durable("reader", version)
    assert [m.payload for m in await reader.messages(300)] == [str(n).encode() for n in range(1, 301)]


async def test_a_client_may_have_many_qos_2_messages_unreleased(version: int) -> None:
    """Reading must not stop at messages whose PUBREL is what has to be read."""
    async with running(limits={"connection_pending": 10}) as broker:
        sender = await broker.client("sender", version)
        sender.send(*(Publish("t", b"", 2, packet_id=n) for n in range(1, 101)))
        for n in range(1, 101):
            assert (await sender.expect(PubRec)).packet_id == n
        sender.send(*(PubRel(n) for n in range(1, 101)))
        for n in range(1, 101):
            assert (await sender.expect(PubComp)).packet_id == n


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_topic_deeper_than_allowed_is_refused(version: int, qos: int) -> None:
    async with running(mqtt={"max_topic_levels": 3}) as broker:
        sender = await broker.client("sender", version)
        assert await sender.publish("a/b/c", b"", 1) < 0x80
        sender.send(Publish("a/b/c/d", b"", qos, packet_id=99 * bool(qos)))
        goodbye = await sender.closed()
        codes = [packet.reason for packet in goodbye if isinstance(packet, Disconnect)]
        assert codes == ([ReasonCode.TOPIC_NAME_INVALID] if version == 5 else [])
        refused = await broker.socket(version)
        ack = await refused.connect("c", will=Will("a/b/c/d", b""))
        assert ack.reason == (ReasonCode.TOPIC_NAME_INVALID if version == 5 else 5)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_retained_message_where_nothing_is_retained(version: int, qos: int) -> None:
    """[MQTT-3.2.2-14]"""
    async with running(mqtt={"retain_available": False}) as broker:
        sender = await broker.client("sender", version)
        sender.send(Publish("t", b"", qos, retain=True, packet_id=9 * bool(qos)))
        goodbye = await sender.closed()
        codes = [packet.reason for packet in goodbye if isinstance(packet, Disconnect)]
        assert codes == ([ReasonCode.RETAIN_NOT_SUPPORTED] if version == 5 else [])
        refused = await broker.socket(version)
        ack = await refused.connect("c", will=Will("t", b"", retain=True))
        assert ack.reason == (ReasonCode.RETAIN_NOT_SUPPORTED if version == 5 else 3)


@pytest.mark.parametrize("topic", ["$SYS", "$SYS/x", "$share/g/t"])
async def test_reserved_topics_are_not_for_clients(stored: Broker, version: int, topic: str) -> None:
    watcher = await stored.client("watcher2")
    await watcher.subscribe("$SYS/x", "$SYS", "t")
    sender = await stored.client("sender", version)
    assert await sender.publish(topic, b"forged", 1) == (ReasonCode.NOT_AUTHORIZED if version == 5 else 0)
    assert await sender.publish(topic, b"forged", 2) == (ReasonCode.NOT_AUTHORIZED if version == 5 else 0)
    await sender.publish(topic, b"forged", 0)
    await sender.publish("t", b"marker", 1)
    assert (await watcher.message()).payload == b"marker"
