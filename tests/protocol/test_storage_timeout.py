"""`mqtt.storage_timeout`: while storage is away, MQTT 5 publishers learn which of their messages storage never heard of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.clock import Timer
from broker.connection.storage_timeout import StorageTimeout
from broker.packets.codes import ReasonCode
from broker.packets.model import PingReq, PingResp, PubAck, PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Property
from tests.support.broker import Broker, running
from tests.support.until import until

TIMEOUT = 0.4


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[Broker]:
    """A broker that says so after a moment, on each kind of storage."""
    async with running(url, mqtt={"storage_timeout": TIMEOUT}) as started:
        yield started


async def stored(broker: Broker, topic: str) -> list[bytes]:
    return [message.payload for message in await broker.server.storage.read_conversation(topic, after=0, limit=1000)]


async def test_what_storage_never_heard_of_is_refused_and_the_rest_waits(impatient: Broker) -> None:
    """The message of the group under way waits; those behind it are refused; what is published after the outage is stored."""
    asking = {Property.REQUEST_PROBLEM_INFORMATION: 1}
    reader, sender = await impatient.durable("reader", 5), await impatient.client("sender", 5, properties=asking)
    await reader.subscribe("t", options=1)
    async with impatient.held() as commits:
        sender.send(Publish("t", b"1", 1, packet_id=1))
        await commits.arrived()
        sender.send(Publish("t", b"2", 1, packet_id=2), Publish("t", b"0", 0), Publish("t", b"3", 1, packet_id=3))
        for packet_id in (2, 3):
            ack = await sender.expect(PubAck)
            assert (ack.packet_id, ack.reason) == (packet_id, ReasonCode.QUOTA_EXCEEDED)
            assert ack.properties[Property.REASON_STRING] == "storage does not keep up: not stored within 0.4 s"
        sender.send(Publish("t", b"4", 1, packet_id=4))
    acks = [await sender.expect(PubAck), await sender.expect(PubAck)]
    assert [(ack.packet_id, ack.reason) for ack in acks] == [(1, 0), (4, 0)]
    assert [message.payload for message in await reader.messages(3)] == [b"1", b"0", b"4"]
    assert await stored(impatient, "t") == [b"1", b"0", b"4"]
    await reader.quiet()


async def test_3_1_1_publishers_wait(impatient: Broker) -> None:
    old, new = await impatient.client("old", 4), await impatient.client("new", 5)
    async with impatient.held() as commits:
        new.send(Publish("t", b"first", 1, packet_id=1))
        await commits.arrived()
        old.send(Publish("t", b"old", 1, packet_id=1), PingReq())
        await old.expect(PingResp)
        new.send(Publish("t", b"new", 1, packet_id=2))
        assert (await new.expect(PubAck)).packet_id == 2  # by now the older message of the 3.1.1 client is overdue too
        await old.ping()
    assert await old.expect(PubAck) == PubAck(1)
    assert await stored(impatient, "t") == [b"first", b"old"]


async def test_the_identifier_of_a_refused_qos_2_message_is_free(impatient: Broker) -> None:
    """[MQTT-4.3.3-8, -9]: after a PUBREC with an error the same identifier is another message."""
    sender = await impatient.durable("sender", 5)
    async with impatient.held() as commits:
        sender.send(Publish("t", b"first", 2, packet_id=1))
        await commits.arrived()
        sender.send(Publish("t", b"refused", 2, packet_id=2))
        refused = await sender.expect(PubRec)
        assert (refused.packet_id, refused.reason) == (2, ReasonCode.QUOTA_EXCEEDED)
        sender.send(Publish("t", b"another", 2, packet_id=2))
    assert [(await sender.expect(PubRec)).packet_id for _ in range(2)] == [1, 2]
    for packet_id in (1, 2):
        sender.send(PubRel(packet_id))
        assert await sender.expect(PubComp) == PubComp(packet_id)
    assert await stored(impatient, "t") == [b"first", b"another"]


async def test_whoever_sent_a_qos_2_message_last_is_told(impatient: Broker) -> None:
    sender, other = await impatient.durable("sender", 5), await impatient.client("other", 5)
    async with impatient.held() as commits:
        other.send(Publish("t", b"first", 1, packet_id=1))
        await commits.arrived()
        sender.send(Publish("t", b"x", 2, packet_id=1))
        await sender.ping()
        await impatient.lose(sender, "sender")
        await until(lambda: impatient.server.pipeline.pending > 1)
    # Nobody could be told, so the message was kept; now its publisher comes back and sends it again.
    sender = await impatient.durable("sender", 5)
    sender.send(Publish("t", b"x", 2, dup=True, packet_id=1))
    assert await sender.expect(PubRec) == PubRec(1)
    assert await stored(impatient, "t") == [b"first", b"x"]


async def test_a_publisher_that_was_told_has_room_again() -> None:
    """The sockets that a full pipeline paused are read again, and the receive maximum is free."""
    sections = {"mqtt": {"storage_timeout": TIMEOUT, "receive_maximum": 4}, "limits": {"pending_bytes": 1 << 16}}
    async with running(**sections) as broker:  # type: ignore[arg-type]
        sender, other = await broker.client("sender", 5), await broker.client("other", 5)
        async with broker.held() as commits:
            other.send(Publish("o", b"", 1, packet_id=1))
            await commits.arrived()
            for packet_id in (1, 2, 3, 4):
                sender.send(Publish("t", b"x" * 30_000, 1, packet_id=packet_id))
            await until(lambda: broker.server.pipeline.full)
            for packet_id in (1, 2, 3, 4):
                ack = await sender.expect(PubAck)
                assert (ack.packet_id, ack.reason) == (packet_id, ReasonCode.QUOTA_EXCEEDED)
            assert not broker.server.pipeline.full
            for packet_id in (1, 2, 3, 4):
                sender.send(Publish("t", b"again", 1, packet_id=packet_id))
            for _ in range(4):
                assert (await sender.expect(PubAck)).reason == ReasonCode.QUOTA_EXCEEDED
        assert await other.expect(PubAck) == PubAck(1, ReasonCode.NO_MATCHING_SUBSCRIBERS)
        assert await sender.publish("t", b"stored") == ReasonCode.NO_MATCHING_SUBSCRIBERS


async def test_zero_is_never() -> None:
    async with running(mqtt={"storage_timeout": 0}) as broker:
        timers = [timer for slot in broker.server.clock._slots.values() for timer in slot]
        calls = [timer._call for timer in timers if isinstance(timer, Timer)]
        assert not [call for call in calls if isinstance(getattr(call, "__self__", None), StorageTimeout)]
