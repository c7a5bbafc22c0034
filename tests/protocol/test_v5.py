"""What only MQTT 5 has: properties, expiry, limits that both sides state, aliases, reason codes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import Disconnect, PubAck, PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Properties, Property
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

KINDS = pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])


async def make(broker: Broker, durable: bool, name: str, **connect: object) -> Client:
    return await (broker.durable if durable else broker.client)(name, 5, **connect)


def reasons(packets: Sequence[object]) -> list[int]:
    return [packet.reason for packet in packets if isinstance(packet, Disconnect)]


# --- properties of a message -----------------------------------------------------------------------------------------

TRAVELLING: Properties = {
    Property.PAYLOAD_FORMAT: 1,
    Property.CONTENT_TYPE: "text/plain",
    Property.RESPONSE_TOPIC: "answers/é",
    Property.CORRELATION_DATA: b"\x00\xff",
    Property.USER_PROPERTY: [("k", "1"), ("", ""), ("k", "2"), ("a", "é" * 100)],
}


@KINDS
async def test_properties_reach_receivers_unaltered_and_in_order(stored: Broker, durable: bool) -> None:
    """[MQTT-3.3.2-4, -15 to -18, -20]"""
    reader, sender = await make(stored, durable, "reader"), await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    await sender.publish("t", b"x", 1, properties=TRAVELLING)
    assert (await reader.message()).properties == TRAVELLING


async def test_properties_survive_the_store(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    await stored.lose(reader, "reader")
    await sender.publish("t", b"x", 1, properties=TRAVELLING)
    await sender.publish("t", b"y", 1)
    reader = await stored.durable("reader", 5)
    first = await reader.message(finish=False)
    assert first.properties == TRAVELLING
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5)
    assert (await reader.message()).properties == TRAVELLING
    assert (await reader.message()).properties == {}


async def test_versions_exchange_messages(stored: Broker) -> None:
    old, new = await stored.client("old", 4), await stored.client("new", 5)
    await old.subscribe("t", options=1)
    await new.subscribe("t", options=1)
    old.send(Publish("t", b"from old", 1, packet_id=1))
    assert {type(await old.receive()) for _ in range(2)} == {PubAck, Publish}
    message = await new.message()
    assert (message.payload, message.properties) == (b"from old", {})
    new.send(Publish("t", b"from new", 1, packet_id=1, properties=TRAVELLING))
    assert (await old.message()).payload == b"from new"


# --- expiry ----------------------------------------------------------------------------------------------------------


async def test_expiry_counts_down_while_a_message_waits(stored: Broker) -> None:
    """[MQTT-3.3.2-6]"""
    reader, sender = await stored.durable("reader", 5), await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    await stored.lose(reader, "reader")
    await sender.publish("t", b"x", 1, properties={Property.MESSAGE_EXPIRY: 100})
    await sender.publish("t", b"gone", 1, properties={Property.MESSAGE_EXPIRY: 20})
    later(stored, 30)
    reader = await stored.durable("reader", 5)
    message = await reader.message()
    assert message.payload == b"x"
    assert 68 <= message.properties[Property.MESSAGE_EXPIRY] <= 70
    await reader.quiet()  # [MQTT-3.3.2-5]


async def test_a_message_that_did_not_wait_keeps_its_expiry(broker: Broker) -> None:
    reader, sender = await broker.client("reader", 5), await broker.client("sender", 5)
    await reader.subscribe("t")
    for interval in (1, 100, 0xFFFFFFFF):
        await sender.publish("t", b"", 0, properties={Property.MESSAGE_EXPIRY: interval})
        assert (await reader.message()).properties == {Property.MESSAGE_EXPIRY: interval}


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_was_in_flight_is_sent_again_also_when_it_expired(stored: Broker, qos: int) -> None:
    """[MQTT-4.3.3-7, MQTT-4.4.0-1]: its delivery has begun. What never was sent is passed over, and holds no offset back."""
    reader = await stored.durable("reader", 5, properties={Property.RECEIVE_MAXIMUM: 1})
    sender = await stored.client("sender", 5)
    await reader.subscribe("t", options=qos)
    for payload in (b"in flight", b"never sent"):
        await sender.publish("t", payload, qos, properties={Property.MESSAGE_EXPIRY: 20})
    first = await reader.message(finish=False)
    await stored.lose(reader, "reader")
    later(stored, 30)
    reader = await stored.durable("reader", 5)
    again = await reader.message()
    assert (again.packet_id, again.payload, again.dup) == (first.packet_id, b"in flight", True)
    assert again.properties[Property.MESSAGE_EXPIRY] == 0
    await reader.quiet()
    (session,) = stored.server.sessions.named("reader")
    await until(lambda: session.offset == session.cursor == 2)


@KINDS
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_expiry_of_0_reaches_all_who_are_connected_and_nobody_else(stored: Broker, durable: bool, qos: int) -> None:
    here, away = await make(stored, durable, "here"), await stored.durable("away", 5)
    member, gone = await make(stored, durable, "member"), await stored.durable("gone", 5)
    sender = await stored.client("sender", 5)
    for client, filter_ in ((here, "t"), (away, "t"), (member, "$share/g/t"), (gone, "$share/nobody/t")):
        await client.subscribe(filter_, options=qos)
    await stored.lose(away, "away")
    await stored.lose(gone, "gone")
    for number in range(20):
        await sender.publish("t", b"%d" % number, qos, properties={Property.MESSAGE_EXPIRY: 0})
    for client in (here, member):
        got = [await client.message() for _ in range(20)]
        assert [int(message.payload) for message in got] == list(range(20))
        assert {message.properties[Property.MESSAGE_EXPIRY] for message in got} == {0}
    for name in ("away", "gone"):
        await (await stored.durable(name, 5)).quiet()
    (session,) = stored.server.sessions.named("away")
    await until(lambda: session.offset == 20)


async def test_an_expiry_of_0_waits_a_moment_for_who_keeps_up(url: str) -> None:
    """For an acknowledgement; but who has fallen behind what memory keeps reads from storage, and is too late."""
    async with running(url, limits={"recent_entries": 2}) as broker:
        reader = await broker.durable("reader", 5, properties={Property.RECEIVE_MAXIMUM: 1})
        sender = await broker.client("sender", 5)
        await reader.subscribe("t", options=1)
        for number in range(3):
            await sender.publish("t", b"%d" % number, 1, properties={Property.MESSAGE_EXPIRY: 0})
        assert [int(message.payload) for message in await reader.messages(3)] == [0, 1, 2]
        await reader.ping()
        for number in range(6):
            await sender.publish("t", b"%d" % number, 1, properties={Property.MESSAGE_EXPIRY: 0})
        assert (await reader.message()).payload == b"0"
        await reader.quiet()


async def test_a_retained_message_with_an_expiry_of_0_is_given_to_nobody_new(stored: Broker) -> None:
    here, sender = await stored.client("here", 5), await stored.client("sender", 5)
    await here.subscribe("t", options=1)
    await sender.publish("t", b"x", 1, retain=True, properties={Property.MESSAGE_EXPIRY: 0})
    assert (await here.message()).payload == b"x"
    late = await stored.client("late", 5)
    await late.subscribe("t", options=1)
    await late.quiet()


def later(broker: Broker, seconds: int) -> None:
    """So much time passes."""
    broker.server.time.not_before(broker.server.time.now() + seconds * 1000)


# --- limits ----------------------------------------------------------------------------------------------------------


@KINDS
async def test_the_receive_maximum_of_a_client_is_kept(stored: Broker, durable: bool) -> None:
    """[MQTT-3.3.4-9]"""
    reader = await make(stored, durable, "reader", properties={Property.RECEIVE_MAXIMUM: 3})
    sender = await stored.client("sender")
    await reader.subscribe("t", options=2)
    for number in range(8):
        await sender.publish("t", str(number).encode(), 1 + number % 2)
    held = [await reader.message(finish=False) for _ in range(3)]
    await reader.quiet()
    reader.send(PubRec(held[1].packet_id))  # only PUBCOMP gives the place back
    await reader.expect(PubRel)
    await reader.quiet()
    reader.send(PubComp(held[1].packet_id))
    held.append(await reader.message(finish=False))
    reader.send(PubAck(held[0].packet_id), PubAck(held[2].packet_id))
    held += [await reader.message(finish=False) for _ in range(2)]
    assert [m.payload for m in held] == [str(n).encode() for n in range(6)]
    await reader.quiet()


async def test_a_receive_maximum_bounds_what_is_sent_again(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender")
    await reader.subscribe("t", options=1)
    for number in range(6):
        await sender.publish("t", str(number).encode(), 1)
        await reader.message(finish=False)
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5, properties={Property.RECEIVE_MAXIMUM: 2})
    got = []
    for _ in range(3):
        pair = [await reader.message(finish=False) for _ in range(2)]
        await reader.quiet()
        got += pair
        reader.send(*(PubAck(message.packet_id) for message in pair))
    assert [(m.payload, m.dup) for m in got] == [(str(n).encode(), True) for n in range(6)]


async def test_qos_0_is_not_held_back_by_a_receive_maximum_for_others() -> None:
    async with running() as broker:
        reader = await broker.client("reader", 5, properties={Property.RECEIVE_MAXIMUM: 1})
        sender = await broker.client("sender")
        await reader.subscribe("t", options=1)
        await sender.publish("t", b"0", 0)
        await sender.publish("t", b"1", 1)
        assert [(await reader.message(finish=False)).payload for _ in range(2)] == [b"0", b"1"]


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_client_that_passes_our_receive_maximum_is_closed(qos: int) -> None:
    """[MQTT-3.3.4-7, -8]"""
    async with running(mqtt={"receive_maximum": 3}) as broker:
        sender = await broker.client("sender", 5)
        async with broker.held():
            sender.send(*(Publish("t", b"", qos, packet_id=n) for n in range(1, 5)))
            assert reasons(await sender.closed()) == [ReasonCode.RECEIVE_MAXIMUM_EXCEEDED]


async def test_a_client_may_use_our_receive_maximum_again_and_again() -> None:
    async with running(mqtt={"receive_maximum": 3}) as broker:
        sender = await broker.client("sender", 5)
        for qos in (1, 2, 2, 1):
            for _ in range(3):
                await sender.publish("t", b"", qos)
        sender.send(*(Publish("t", b"", 2, packet_id=n) for n in range(1, 4)))
        for _ in range(3):
            await sender.expect(PubRec)
        sender.send(Publish("t", b"", 2, dup=True, packet_id=1))  # again: it takes no place of its own
        await sender.expect(PubRec)
        sender.send(Publish("t", b"", 1, packet_id=9))
        assert reasons(await sender.closed()) == [ReasonCode.RECEIVE_MAXIMUM_EXCEEDED]


@KINDS
async def test_a_message_larger_than_a_client_takes_is_passed_over(stored: Broker, durable: bool) -> None:
    """[MQTT-3.1.2-24, -25]: never sent, and nothing behind it waits."""
    reader = await make(stored, durable, "reader", properties={Property.MAXIMUM_PACKET_SIZE: 100})
    sender = await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    fits = 100 - 2 - 2 - 1 - 2 - 1  # header, topic's length, topic, packet identifier, property length
    for size in (fits, fits + 1, 5000, 10):
        await sender.publish("t", b"x" * size, 1)
    assert [len(m.payload) for m in await reader.messages(2)] == [fits, 10]
    await reader.quiet()
    if durable:
        (session,) = stored.server.sessions.named("reader")
        assert session.offset == 4


async def test_a_smaller_maximum_after_a_reconnect_holds_for_what_is_sent_again(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await sender.publish("t", b"x" * 500, 1)
    await sender.publish("t", b"small", 1)
    for _ in range(2):
        await reader.message(finish=False)
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5, properties={Property.MAXIMUM_PACKET_SIZE: 100})
    assert (await reader.message()).payload == b"small"
    await reader.quiet()


async def test_reason_strings_give_way_to_a_small_maximum(broker: Broker) -> None:
    asking = {Property.REQUEST_PROBLEM_INFORMATION: 1}
    client = await broker.client("c", 5, properties={**asking, Property.MAXIMUM_PACKET_SIZE: 20})
    client.send(Publish("$SYS/x", b"", 1, packet_id=1))
    ack = await client.expect(PubAck)
    assert (ack.reason, ack.properties) == (ReasonCode.NOT_AUTHORIZED, {})


# --- aliases ---------------------------------------------------------------------------------------------------------


async def test_a_topic_alias_stands_for_its_topic(stored: Broker) -> None:
    """3.3.2.3.4"""
    reader, sender = await stored.client("reader", 5), await stored.client("sender", 5)
    await reader.subscribe("#")
    for topic, alias, payload in (
        ("a", 1, b"1"),
        ("", 1, b"2"),
        ("b", 1, b"3"),
        ("", 1, b"4"),
        ("c", 16, b"5"),
        ("", 16, b"6"),
    ):
        sender.send(Publish(topic, payload, 0, properties={Property.TOPIC_ALIAS: alias}))
    got = await reader.messages(6)
    assert [(m.topic, m.payload) for m in got] == [
        (topic, str(n).encode()) for n, topic in enumerate(["a", "a", "b", "b", "c", "c"], 1)
    ]
    assert all(Property.TOPIC_ALIAS not in m.properties for m in got)


async def test_aliases_belong_to_a_connection(broker: Broker) -> None:
    """[MQTT-3.3.2-7]"""
    sender = await broker.durable("sender", 5)
    sender.send(Publish("a", b"", 0, properties={Property.TOPIC_ALIAS: 1}))
    await sender.ping()
    await sender.leave()
    sender = await broker.durable("sender", 5)
    sender.send(Publish("", b"", 0, properties={Property.TOPIC_ALIAS: 1}))
    assert reasons(await sender.closed()) == [ReasonCode.PROTOCOL_ERROR]


async def test_an_alias_above_the_maximum(broker: Broker) -> None:
    """[MQTT-3.3.2-9]"""
    sender = await broker.client("sender", 5)
    sender.send(Publish("a", b"", 0, properties={Property.TOPIC_ALIAS: 17}))
    assert reasons(await sender.closed()) == [ReasonCode.TOPIC_ALIAS_INVALID]


@KINDS
async def test_aliases_towards_a_client_that_takes_them(stored: Broker, durable: bool) -> None:
    """[MQTT-3.1.2-26, -27]: never more than it said, and every message can be told apart."""
    reader = await make(stored, durable, "reader", properties={Property.TOPIC_ALIAS_MAXIMUM: 2})
    sender = await stored.client("sender")
    await reader.subscribe("t/#", options=1)
    topics = ["t/a", "t/b", "t/c", "t/a", "t/b", "t/c"] * 3
    for topic in topics:
        await sender.publish(topic, topic.encode(), 1)
    known: dict[int, str] = {}
    for topic in topics:
        message = await reader.message()
        alias = message.properties.get(Property.TOPIC_ALIAS, 0)
        assert 0 <= alias <= 2
        if message.topic and alias:
            known[alias] = message.topic
        assert (message.topic or known[alias]) == topic
        assert message.payload == topic.encode()
    assert len(known) == 2


# --- reason codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
async def test_nobody_is_subscribed(stored: Broker, qos: int) -> None:
    sender, reader = await stored.client("sender", 5), await stored.durable("reader", 5)
    assert await sender.publish("t", b"", qos) == ReasonCode.NO_MATCHING_SUBSCRIBERS
    await reader.subscribe("t", options=qos)
    assert await sender.publish("t", b"", qos) == 0
    await stored.lose(reader, "reader")
    assert await sender.publish("t", b"", qos) == 0  # it waits for somebody


async def test_an_error_in_pubrec_ends_the_exchange(stored: Broker) -> None:
    """[MQTT-4.3.3-4]: the message counts as done, and its identifier is free."""
    reader, sender = await stored.durable("reader", 5), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await sender.publish("t", b"x", 2)
    message = await reader.message(finish=False)
    reader.send(PubRec(message.packet_id, ReasonCode.QUOTA_EXCEEDED))
    await reader.quiet()
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5)
    await reader.quiet()


async def test_an_error_in_puback_ends_it_too(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await sender.publish("t", b"x", 1)
    message = await reader.message(finish=False)
    reader.send(PubAck(message.packet_id, ReasonCode.UNSPECIFIED_ERROR))
    await reader.ping()
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", 5)
    await reader.quiet()


async def test_a_shutdown_says_so(broker: Broker) -> None:
    new, old = await broker.client("new", 5), await broker.client("old", 4)
    await broker.server.stop()
    assert reasons(await new.closed()) == [ReasonCode.SERVER_SHUTTING_DOWN]
    assert await old.closed() == []


# --- naming messages -------------------------------------------------------------------------------------------------


async def test_a_message_sent_again_under_its_name_is_stored_once(stored: Broker) -> None:
    reader, sender = await stored.durable("reader", 5), await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    named: Properties = {Property.USER_PROPERTY: [("message-id", "42")]}
    answers: list[PubAck | PubRec] = []
    for packet_id in (1, 2):
        sender.send(Publish("t", b"x", 1, packet_id=packet_id, properties=named))
        answers.append(await sender.expect(PubAck))
    await sender.drop()
    sender = await stored.client("sender", 5)
    sender.send(Publish("t", b"x", 2, packet_id=3, properties=named))
    answers.append(await sender.expect(PubRec))
    told = [dict(answer.properties[Property.USER_PROPERTY]) for answer in answers]
    assert all(answer.reason == 0 for answer in answers)
    assert told[0]["seq"] == "1"
    assert "duplicate" not in told[0]
    assert told[1] == told[2] == {**told[0], "duplicate": "true"}
    sender.send(Publish("t", b"another", 1, packet_id=4, properties=named))
    assert (await sender.expect(PubAck)).reason == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
    assert (await reader.message()).payload == b"x"
    await reader.quiet()


async def test_a_retained_message_under_its_name_stays_one(stored: Broker) -> None:
    sender = await stored.client("sender", 5)
    named: Properties = {Property.USER_PROPERTY: [("message-id", "42")]}
    await sender.publish("t", b"x", 1, retain=True, properties=named)
    await sender.publish("t", b"newer", 1, retain=True)
    await sender.publish("t", b"x", 1, retain=True, properties=named)
    reader = await stored.durable("reader", 5)
    await reader.subscribe("t", options=1)
    assert (await reader.message()).payload == b"newer"


async def test_who_asks_is_told_where_its_message_stands(stored: Broker) -> None:
    sender = await stored.client("sender", 5, properties={Property.USER_PROPERTY: [("tideline-acks", "on")]})
    for seq in (1, 2):
        sender.send(Publish("t", b"", 1, packet_id=seq))
        told = dict((await sender.expect(PubAck)).properties[Property.USER_PROPERTY])
        assert told["seq"] == str(seq)
        message = await stored.server.storage.read_message(int(told["message-id"], 16))
        assert message is not None
        assert message.seq == seq


async def test_who_asks_is_told_what_is_known_of_a_message(stored: Broker) -> None:
    asking = {Property.USER_PROPERTY: [("tideline-messages", "on")]}
    reader = await stored.durable("reader", 5, properties=asking)
    sender = await stored.client("sender", 5)
    await reader.subscribe("t", options=1)
    await sender.publish("t", b"", 1, properties={Property.USER_PROPERTY: [("own", "first")]})
    pairs = (await reader.message()).properties[Property.USER_PROPERTY]
    assert pairs[0] == ("own", "first")
    told = dict(pairs)
    assert (told["tideline-seq"], told["tideline-inbox-seq"], told["tideline-sender"]) == ("1", "1", "c/sender")
