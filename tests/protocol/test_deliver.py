"""Delivery to devices: quality of service, handshakes, the window, and what happens over a reconnect (4.3, 4.4, 4.6)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.connection.connection import LARGE
from broker.hooks import Group, GroupPlugin
from broker.packets.codes import ReasonCode
from broker.packets.model import Disconnect, PubAck, PubComp, Publish, PubRec, PubRel, SubAck, Subscribe
from storage.records import Operation, Progress
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client


def numbers(messages: list[Publish]) -> list[int]:
    return [int(message.payload) for message in messages]


async def send(sender: Client, topic: str, payloads: range, qos: int = 1) -> None:
    for number in payloads:
        await sender.publish(topic, str(number).encode(), qos)


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("subscribed", [0, 1, 2])
async def test_delivered_is_the_lower_of_published_and_subscribed(
    broker: Broker, version: int, published: int, subscribed: int, durable: bool
) -> None:
    """[MQTT-3.8.4-6 of 3.1.1, 3.8.4-8 of 5]"""
    reader = await (broker.durable if durable else broker.client)("reader", version)
    assert await reader.subscribe("t", options=subscribed) == [subscribed]
    sender = await broker.client("sender", version)
    await sender.publish("t", b"x", published)
    message = await reader.message()
    assert message.qos == min(published, subscribed)
    assert bool(message.packet_id) == bool(message.qos)


async def test_a_qos_1_message_that_was_not_acknowledged_comes_again(stored: Broker, version: int) -> None:
    """[MQTT-4.4.0-1]: same identifier, DUP, before anything newer."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(3))
    first = [await reader.message(finish=False) for _ in range(3)]
    assert [m.dup for m in first] == [False] * 3
    reader.send(PubAck(first[1].packet_id))
    await reader.ping()
    await stored.lose(reader, "reader")
    await send(sender, "t", range(3, 5))
    reader = await stored.socket(version)
    assert (await reader.connect("reader", clean=False, expiry=3600 if version == 5 else None)).session_present
    again = [await reader.message(finish=False) for _ in range(4)]
    assert numbers(again) == [0, 2, 3, 4]
    assert [m.dup for m in again] == [True, True, False, False]
    assert [m.packet_id for m in again[:2]] == [first[0].packet_id, first[2].packet_id]
    assert len({m.packet_id for m in again}) == 4


async def test_acknowledged_messages_do_not_come_again(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(3))
    await reader.messages(3)
    await reader.leave()
    reader = await stored.durable("reader", version)
    await send(sender, "t", range(3, 4))
    assert numbers(await reader.messages(1)) == [3]


async def test_nothing_is_sent_again_on_a_connection_that_lasts(broker: Broker, version: int) -> None:
    """[MQTT-4.4.0-1] of 5 forbids it at any other time than a reconnect."""
    reader, sender = await broker.durable("reader", version), await broker.client("sender")
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(2))
    held = [await reader.message(finish=False) for _ in range(2)]
    await reader.quiet()
    for message in reversed(held):
        reader.send(PubAck(message.packet_id))
    await reader.quiet()


async def test_a_qos_2_message_resumes_where_it_stood(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await send(sender, "t", range(3), qos=2)
    messages = [await reader.message(finish=False) for _ in range(3)]
    ids = [m.packet_id for m in messages]
    reader.send(PubRec(ids[0]), PubRec(ids[1]))
    assert [(await reader.expect(PubRel)).packet_id for _ in range(2)] == ids[:2]
    reader.send(PubComp(ids[0]))
    await reader.ping()
    await stored.lose(reader, "reader")

    reader = await stored.durable("reader", version)
    assert (await reader.expect(PubRel)).packet_id == ids[1]  # released: never published again [MQTT-4.3.3-6]
    message = await reader.message(finish=False)
    assert (message.packet_id, message.dup, message.payload) == (ids[2], True, b"2")
    reader.send(PubComp(ids[1]), PubRec(ids[2]))
    await reader.expect(PubRel)
    reader.send(PubComp(ids[2]))
    await reader.ping()
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", version)
    await reader.quiet()


async def test_a_qos_2_message_that_is_gone_is_released(stored: Broker, version: int) -> None:
    """The client may hold the identifier: of another message it would take the first one for the same [MQTT-4.3.3-3]."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await send(sender, "t", range(2), qos=2)
    first, second = [await reader.message(finish=False) for _ in range(2)]
    await stored.lose(reader, "reader")
    assert await stored.server.storage.prune_conversation("t", 2) == 1

    reader = await stored.durable("reader", version)
    message = await reader.message(finish=False)
    assert (message.packet_id, message.payload) == (second.packet_id, b"1")
    assert (await reader.expect(PubRel)).packet_id == first.packet_id
    reader.send(PubComp(first.packet_id), PubRec(second.packet_id))
    assert (await reader.expect(PubRel)).packet_id == second.packet_id
    reader.send(PubComp(second.packet_id))
    await reader.ping()
    await stored.lose(reader, "reader")
    await (await stored.durable("reader", version)).quiet()


async def test_an_acknowledgement_of_nothing_changes_nothing(broker: Broker, version: int) -> None:
    reader, sender = await broker.durable("reader", version), await broker.client("sender")
    await reader.subscribe("t", options=2)
    reader.send(PubAck(77), PubComp(77))
    await sender.publish("t", b"one", 1)
    assert (await reader.message()).payload == b"one"
    await reader.quiet()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("kind", [PubAck, PubRec, PubComp])
async def test_an_acknowledgement_of_the_wrong_kind_is_a_violation(
    stored: Broker, version: int, qos: int, kind: type[PubAck | PubRec | PubComp]
) -> None:
    """[MQTT-4.8.0-1] of 3.1.1, 4.13.2 of 5: the connection is closed, and the message comes again."""
    if (kind, qos) in ((PubAck, 1), (PubRec, 2)):
        return
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await sender.publish("t", b"x", qos)
    message = await reader.message(finish=False)
    reader.send(kind(message.packet_id))
    assert await reader.closed() == ([Disconnect(ReasonCode.PROTOCOL_ERROR)] if version == 5 else [])
    reader = await stored.durable("reader", version)
    again = await reader.message()
    assert (again.payload, again.dup) == (b"x", True)


async def test_acknowledgements_that_come_together_count_one_by_one(stored: Broker, version: int) -> None:
    """One of nothing among them changes nothing, and behind one that is a violation none counts [MQTT-4.8.0-1]."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await send(sender, "t", range(6))
    await send(sender, "t", range(6, 7), qos=2)
    ids = [(await reader.message(finish=False)).packet_id for _ in range(7)]
    before = stored.server.counters.messages_received
    reader.send(PubAck(ids[0]), PubAck(777), PubAck(ids[3]))
    await reader.ping()
    assert stored.server.counters.messages_received == before + 4
    reader.send(PubAck(ids[1]), PubAck(ids[2]), PubAck(ids[6]), PubAck(ids[4]))
    assert await reader.closed() == ([Disconnect(ReasonCode.PROTOCOL_ERROR)] if version == 5 else [])
    reader = await stored.durable("reader", version)
    again = [await reader.message(finish=False) for _ in range(3)]
    assert numbers(again) == [4, 5, 6]
    assert [message.packet_id for message in again] == ids[4:]


async def test_acknowledgements_that_come_together_move_the_offset(stored: Broker) -> None:
    reader, sender = await stored.durable("reader"), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(3))
    ids = [(await reader.message(finish=False)).packet_id for _ in range(3)]
    saved: list[Operation] = []
    stored.server.delivery.watchers.append(saved.extend)
    reader.send(*map(PubAck, ids))
    await until(lambda: [one.offset for one in saved if isinstance(one, Progress)] == [3])


async def test_an_unknown_pubrec_is_answered(broker: Broker, version: int) -> None:
    """In 3.1.1 only PUBREL can be said; 5 names what is wrong."""
    reader = await broker.client("reader", version)
    reader.send(PubRec(55))
    release = await reader.expect(PubRel)
    assert (release.packet_id, release.reason) == (55, 0x92 if version == 5 else 0)


async def test_the_window_bounds_what_is_in_flight(version: int) -> None:
    async with running(mqtt={"inflight_window": 5}) as broker:
        reader, sender = await broker.durable("reader", version), await broker.client("sender")
        await reader.subscribe("t", options=2)
        await send(sender, "t", range(20))
        held = [await reader.message(finish=False) for _ in range(5)]
        await reader.quiet()
        reader.send(PubAck(held[1].packet_id))  # the window starts at the oldest that is not done, so there is no room yet
        await reader.quiet()
        reader.send(PubAck(held[0].packet_id))
        assert numbers([await reader.message() for _ in range(2)]) == [5, 6]
        for message in held[2:]:
            reader.send(PubAck(message.packet_id))
        assert numbers(await reader.messages(13)) == list(range(7, 20))


async def test_qos_0_waits_its_turn_behind_a_full_window(version: int) -> None:
    """One order for all that a device gets, whatever its quality of service (law 4)."""
    async with running(mqtt={"inflight_window": 1}) as broker:
        reader, sender = await broker.durable("reader", version), await broker.client("sender")
        await reader.subscribe("t", options=1)
        for number, qos in enumerate([1, 1, 0, 1, 0]):
            await sender.publish("t", str(number).encode(), qos)
        assert numbers(await reader.messages(5)) == [0, 1, 2, 3, 4]


async def test_a_backlog_is_drained_in_order(stored: Broker, version: int) -> None:
    """Missed while away, some of it published while it drains (law 3: in order and once across the switch)."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await stored.lose(reader, "reader")
    sender.send(*(Publish("t", str(n).encode(), 1, packet_id=n + 1) for n in range(1000)))
    for _ in range(1000):
        await sender.expect(PubAck)
    reader = await stored.durable("reader", version)
    got = numbers(await reader.messages(300))
    sender.send(*(Publish("t", str(n).encode(), 1, packet_id=n + 1) for n in range(1000, 2000)))
    got += numbers(await reader.messages(1700))
    assert got == list(range(2000))
    await reader.quiet()


async def test_devices_of_one_user_see_one_order(stored: Broker) -> None:
    """Law 4, with many publishers at once. Anonymous devices are users of their own: the order is the topic's."""
    readers = [await stored.durable(f"reader{n}", 4 + n % 2) for n in range(3)]
    for reader in readers:
        await reader.subscribe("t", options=1)
    senders = [await stored.client(f"sender{n}") for n in range(4)]
    for index, sender in enumerate(senders):
        sender.send(*(Publish("t", str(index * 1000 + n).encode(), 1, packet_id=n + 1) for n in range(100)))
    orders = [numbers(await reader.messages(400)) for reader in readers]
    assert orders[0] == orders[1] == orders[2]
    for index in range(4):
        mine = [n for n in orders[0] if n // 1000 == index]
        assert mine == list(range(index * 1000, index * 1000 + 100))


async def test_a_clean_session_gets_nothing_from_before(broker: Broker, version: int) -> None:
    reader, sender = await broker.client("reader", version), await broker.client("sender")
    await reader.subscribe("t", options=1)
    await broker.lose(reader, "reader")
    await send(sender, "t", range(2))
    reader = await broker.client("reader", version)
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(2, 3))
    assert numbers(await reader.messages(1)) == [2]


async def test_messages_before_a_subscription_in_the_same_write_are_not_due(stored: Broker, version: int) -> None:
    """The place of SUBSCRIBE in the order counts, also where it is committed in one group with what was before it."""
    for index, make in enumerate([stored.durable, stored.client]):
        client = await make(f"c{index}", version)
        topic = f"t{index}"
        client.send(Publish(topic, b"before", 1, packet_id=1), Subscribe(2, [(topic, 1)]), Publish(topic, b"after", 0))
        assert {type(await client.receive()) for _ in range(2)} == {PubAck, SubAck}
        assert (await client.message()).payload == b"after"


async def test_unsubscribing_stops_delivery_and_keeps_what_is_in_flight(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await send(sender, "t", range(2))
    held = [await reader.message(finish=False) for _ in range(2)]
    await reader.unsubscribe("t")
    await send(sender, "t", range(2, 4))
    await reader.quiet()
    await stored.lose(reader, "reader")
    reader = await stored.durable("reader", version)
    again = [await reader.message() for _ in range(2)]  # [MQTT-3.10.4-3]
    assert [(m.packet_id, m.dup) for m in again] == [(m.packet_id, True) for m in held]
    await reader.quiet()


class Copying(GroupPlugin):
    """Puts what is published to ``copied`` into one more inbox, whose device has no filter for it."""

    def before_ack(self, group: Group) -> None:
        for append in group.appends:
            if append.message.topic == "copied":
                append.recipients = ["c/other", *append.recipients]


async def test_an_inbox_that_a_hook_added_costs_nobody_else_the_message() -> None:
    """Nor those behind it in its group; and its own device reads on."""
    async with running(plugins={f"{__name__}.Copying": {}}) as broker:
        reader, other = await broker.durable("reader"), await broker.durable("other")
        clean, sender = await broker.client("clean"), await broker.client("sender")
        for client in (reader, clean):
            await client.subscribe("copied", "t", options=1)
        await other.subscribe("t", options=1)
        async with broker.held() as commits:
            sender.send(Publish("behind", b"", 1, packet_id=1))
            await commits.arrived()
            sender.send(Publish("copied", b"1", 1, packet_id=2), Publish("t", b"2", 1, packet_id=3))
        assert [numbers(await client.messages(2)) for client in (reader, clean)] == [[1, 2], [1, 2]]
        assert numbers(await other.messages(1)) == [2]
        assert await broker.server.storage.inbox_head("c/other") == 2


class Watched:
    """A transport that remembers what is written in pieces."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def writelines(self, pieces: list[bytes]) -> None:
        self.written += pieces
        self.transport.writelines(pieces)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_large_payload_is_no_copy_for_each_receiver(version: int, qos: int) -> None:
    """It is written from where it is. What is not large is one frame with what is before it."""
    sizes = [LARGE, 10, LARGE - 2, 10 * LARGE, LARGE]
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    async with running() as broker:
        readers = [await broker.durable(f"reader-{number}", version) for number in range(2)]
        for reader in readers:
            assert await reader.subscribe("t", options=qos) == [qos]
        watched = [Watched(one._transport) for one in broker.server.connections]
        for connection, transport in zip(list(broker.server.connections), watched, strict=True):
            connection._transport = transport
        sender = await broker.client("sender", version)
        for payload in sent:
            await sender.publish("t", payload, qos)
        for reader in readers:
            assert [(await reader.message()).payload for _ in sent] == sent
            await reader.quiet()
        first, second = ([piece for piece in one.written if len(piece) >= LARGE] for one in watched)
        assert len(first) == 3
        assert all(one is other for one, other in zip(first, second, strict=True))
