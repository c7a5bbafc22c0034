"""Law 1: every answer that promises something follows the commit that makes it true, of each kind of packet."""

from __future__ import annotations

import pytest

from broker.packets.model import (
    ConnAck,
    Connect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from tests.support.broker import Broker
from tests.support.until import until
from tests.support.wire import Client


async def answered_only_when_durable(broker: Broker, client: Client, packet: Packet, answer: type[Packet]) -> None:
    """What is sent is committed first; a PINGREQ that overtakes it shows that nothing was written before."""
    async with broker.held() as commits:
        client.send(packet)
        await commits.arrived()
        await client.ping()
        commits.let()
        await client.expect(answer)


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (Publish("t", b"x", 1, packet_id=9), PubAck),
        (Publish("t", b"x", 2, packet_id=9), PubRec),
        (PubRel(7), PubComp),
        (Subscribe(9, [("new", 1)]), SubAck),
        (Subscribe(9, [("$share/g/t", 1)]), SubAck),
        (Unsubscribe(9, ["old"]), UnsubAck),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_what_a_client_asks_for(stored: Broker, version: int, packet: Packet, answer: type[Packet]) -> None:
    client = await stored.durable("client", version)
    await client.subscribe("old")
    client.send(Publish("t", b"to be released", 2, packet_id=7))
    await client.expect(PubRec)
    await answered_only_when_durable(stored, client, packet, answer)


async def test_a_session(stored: Broker, version: int) -> None:
    client = await stored.socket(version)
    properties = {17: 3600} if version == 5 else {}
    async with stored.held() as commits:
        sent = stored.server.counters.messages_sent
        client.send(Connect("new", version, False, 0, properties=properties))
        await commits.arrived()
        assert stored.server.counters.messages_sent == sent
        commits.let()
        await client.expect(ConnAck)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_for_who_receives_it(stored: Broker, version: int, qos: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    async with stored.held() as commits:
        sender.send(Publish("t", b"x", qos, packet_id=1 if qos else 0))
        await commits.arrived()
        await reader.ping()
        first = commits.waiting
        commits.let()
        if qos == 2:  # the identifier that it is given is durable before it is sent: with a group of its own
            await until(lambda: bool(commits.waiting) and commits.waiting is not first)
            await reader.ping()
            commits.let()
        assert (await reader.expect(Publish)).payload == b"x"


async def test_a_release(stored: Broker, version: int) -> None:
    """PUBREL says that the message will not be sent again, which must be known after a crash."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=2)
    await sender.publish("t", b"x", 2)
    message = await reader.expect(Publish)
    await answered_only_when_durable(stored, reader, PubRec(message.packet_id), PubRel)


async def test_a_release_in_a_group(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("$share/g/t", options=2)
    await sender.publish("t", b"x", 2)
    message = await reader.expect(Publish)
    await answered_only_when_durable(stored, reader, PubRec(message.packet_id), PubRel)
