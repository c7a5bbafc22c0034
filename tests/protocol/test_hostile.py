"""Malformed and hostile input: it closes its own connection, nothing behind it counts, and nobody else notices (4.13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.encoder import encode
from broker.packets.model import ConnAck, Connect, Disconnect, PubAck, Publish, SubAck, Subscribe
from broker.packets.properties import Property
from tests.packets.cases import HOSTILE, HOSTILE_CONNECT, OPENING, Hostile
from tests.support.broker import Broker, running
from tests.support.wire import Client


def named(cases: list[Hostile]) -> list[object]:
    return [pytest.param(case, id=f"{case.version}: {case.name}") for case in cases]


def behind(version: int) -> bytes:
    """A valid PUBLISH that must not be processed."""
    return encode(Publish("behind", b"must not be seen", 0), version)


async def unharmed(watcher: Client, broker: Broker) -> None:
    """The watcher of everything got nothing from the hostile client, and still gets what others send."""
    sender = await broker.client("sender")
    await sender.publish("marker", b"after", 0)
    assert (await watcher.message()).topic == "marker"


@pytest.fixture
async def watcher(broker: Broker) -> Client:
    client = await broker.client("watcher")
    await client.subscribe("#")
    return client


@pytest.mark.parametrize("case", named(HOSTILE_CONNECT))
async def test_a_hostile_connect(broker: Broker, watcher: Client, case: Hostile) -> None:
    hostile = await broker.socket(5 if b"MQTT\x05" in case.data else 4)
    hostile.send_bytes(case.data + behind(hostile.version))
    packets = await hostile.closed()
    assert all(isinstance(packet, ConnAck) for packet in packets)
    if hostile.version == 5:
        assert [packet.reason for packet in packets if isinstance(packet, ConnAck)] == [case.code]
    await unharmed(watcher, broker)


@pytest.mark.parametrize("case", named([case for case in HOSTILE if case.version]))
async def test_a_hostile_packet(broker: Broker, watcher: Client, case: Hostile) -> None:
    hostile = await broker.socket(case.version)
    hostile.send_bytes(OPENING[case.version])
    await hostile.expect(ConnAck)
    hostile.send_bytes(case.data + behind(case.version))
    packets = await hostile.closed()
    if case.version == 5:  # [MQTT-4.13.1-1]
        assert [packet.reason for packet in packets if isinstance(packet, Disconnect)] == [case.code]
    else:
        assert packets == []
    await unharmed(watcher, broker)


async def test_a_violation_behind_connect_in_the_same_write(broker: Broker, watcher: Client, version: int) -> None:
    hostile = await broker.socket(version)
    good = encode(Publish("good", b"", 0), version)
    hostile.send_bytes(encode(Connect("h", version), version) + good + b"\x00\x00" + behind(version))
    packets = await hostile.closed()
    assert isinstance(packets[0], ConnAck)
    assert (await watcher.message()).topic == "good"
    await unharmed(watcher, broker)


async def test_what_stands_before_a_violation_is_done(broker: Broker, watcher: Client, version: int) -> None:
    hostile = await broker.client("h", version)
    hostile.send_bytes(encode(Publish("good", b"", 0), version) + b"\x00\x00" + behind(version))
    await hostile.closed()
    assert (await watcher.message()).topic == "good"
    await unharmed(watcher, broker)


async def test_a_packet_above_the_maximum_size(version: int) -> None:
    async with running(mqtt={"max_packet_size": 1024}) as broker:
        client = await broker.client("c", version)
        await client.subscribe("t", options=1)
        overhead = len(encode(Publish("t", b"", 1, packet_id=1), version)) + 1  # the remaining length takes two bytes
        await_size = 1024 - overhead
        client.send(Publish("t", b"x" * await_size, 1, packet_id=1))
        got = {type(await client.receive()) for _ in range(2)}
        assert got == {PubAck, Publish}
        # Its header is enough: the rest never has to come.
        client.send_bytes(encode(Publish("t", b"x" * (await_size + 1), 1, packet_id=2), version)[:8])
        packets = await client.closed()
        if version == 5:
            assert [p.reason for p in packets if isinstance(p, Disconnect)] == [ReasonCode.PACKET_TOO_LARGE]
        else:
            assert packets == []


async def test_a_reason_that_quotes_a_huge_topic(broker: Broker, watcher: Client) -> None:
    """A reason string holds 65,535 bytes; a topic may be as long, and longer once it is quoted."""
    client = await broker.client("c", 5, properties={Property.REQUEST_PROBLEM_INFORMATION: 1})
    topic = "$SYS/" + "\N{ZERO WIDTH SPACE}" * 21_000
    client.send(Publish(topic, b"", 1, packet_id=1))
    ack = await client.expect(PubAck)
    assert ack.reason == ReasonCode.NOT_AUTHORIZED
    assert 300 < len(ack.properties[Property.REASON_STRING]) <= 512
    await client.ping()
    await unharmed(watcher, broker)


@pytest.mark.parametrize("name", ["$share/", "$share/g", "$share//t", "$share/g/"])
async def test_a_shared_filter_without_its_parts(broker: Broker, watcher: Client, version: int, name: str) -> None:
    """A protocol error to 5 [MQTT-4.8.2-1]. To 3.1.1 a valid filter, which is refused as what it looks like."""
    client = await broker.client("c", version)
    client.send(Subscribe(1, [(name, 0), ("t", 0)]))
    if version == 5:
        assert [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)] == [0x82]
    else:
        assert (await client.expect(SubAck)).reasons == [0x80, 0]
        await client.unsubscribe(name)
        await client.ping()
    await unharmed(watcher, broker)


async def test_one_hostile_client_among_many_packets(broker: Broker, version: int) -> None:
    """A flood of malformed packets closes one connection once."""
    hostile, other = await broker.client("h", version), await broker.client("o", version)
    hostile.send_bytes(b"\x00\x00" * 5000)
    await hostile.closed()
    await other.ping()
    assert broker.server.counters.protocol_errors == 1


ODD = ["\t", "\1", "\x7f", "\x85", "\uffff", "\ufdd0"]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
async def test_control_and_non_characters_are_taken_or_refused_as_the_page_says(broker: Broker, odd: str) -> None:
    """1.5.4 leaves it to the server: names that others see, log and match have none, free text may."""
    page = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| 1.5.4, control")]
    assert "client ids, user names, topic names and filters; taken everywhere else" in row
    for packet in (Publish(f"a{odd}", b"", 0), Subscribe(1, [(f"a/{odd}", 0)]), Subscribe(1, [(f"$share/{odd}/a", 0)])):
        client = await broker.client("odd", 5)
        client.send(packet)
        (last,) = await client.closed()
        assert isinstance(last, Disconnect)
        assert last.reason == ReasonCode.MALFORMED_PACKET
    client = await broker.client("odd", 5)
    await client.subscribe("free")
    await client.publish("free", odd.encode(), 0, properties={Property.USER_PROPERTY: [(odd, odd)]})
    message = await client.message()
    assert message.properties[Property.USER_PROPERTY] == [(odd, odd)]
