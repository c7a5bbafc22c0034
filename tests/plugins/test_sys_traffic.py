"""Each figure of `$SYS`, compared with what the clients of a real broker sent and received."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest

from broker.packets.encoder import encode
from broker.packets.model import Packet, Publish
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client, Closed

ROOT = "$SYS/broker/"
OWN = "tideline/"


class Counted(Client):
    """A client that keeps the books of its connection."""

    sent: Counter[str]
    got: Counter[str]
    noted: list[Packet]

    @classmethod
    async def to(cls, broker: Broker, version: int) -> Counted:
        client = cls(*await asyncio.open_connection(*broker.address), version)
        client.sent, client.got, client.noted = Counter(), Counter(), []
        return client

    def _note(self, book: Counter[str], packet: Packet) -> None:
        book["packets"] += 1
        book["bytes"] += len(encode(packet, self.version))
        if isinstance(packet, Publish):
            book["publishes"] += 1
            book["payload"] += len(packet.payload)

    def send(self, *packets: Packet) -> None:
        for packet in packets:
            self._note(self.sent, packet)
        super().send(*packets)

    async def receive(self, timeout: float = 10.0) -> Packet:
        packet = await super().receive(timeout)
        if not any(packet is one for one in self.noted):  # the client puts back what came between two packets that it waits for
            self.noted.append(packet)
            self._note(self.got, packet)
        return packet


async def traffic(broker: Broker) -> list[Counted]:
    """Clients with messages of each QoS, retained, shared, resent, a refused one, a forbidden topic."""
    clients = [await Counted.to(broker, version) for version in (4, 5, 4, 5)]
    publisher, durable, plain, refused = clients
    await publisher.connect("publisher")
    await durable.connect("durable", clean=False, expiry=600)
    await durable.subscribe("t/#", options=2)
    await plain.connect("plain")
    await plain.subscribe("t/a", "$share/group/none")
    for qos, count in ((0, 3), (1, 4), (2, 2)):
        for _ in range(count):
            await publisher.publish("t/a", b"0123456789", qos)
    await publisher.publish("t/keep", b"kept", 1, retain=True)
    await publisher.publish("$SYS/mine", b"no", 1)
    await durable.messages(10)
    await plain.messages(9)
    await durable.drop()
    await until(lambda: broker.server.clients == 2)
    await publisher.publish("t/a", b"while away", 1)
    await plain.message()
    again = await Counted.to(broker, 5)
    await again.connect("durable", clean=False, expiry=600)
    await again.message()
    ack = await refused.connect("refused", properties={21: "no such method"})
    assert ack.reason == 0x8C
    with pytest.raises(Closed):
        await refused.receive()
    return [*clients, again]


async def stranger(broker: Broker) -> int:
    """Bytes that are no MQTT."""
    reader, writer = await asyncio.open_connection(*broker.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()
    return 18


async def test_every_figure_is_what_happened() -> None:
    async with running(plugins={"sys": {"interval": 0.05}}) as broker:
        clients = await traffic(broker)
        junk = await stranger(broker)

        def books(which: str, key: str) -> int:
            return sum(getattr(client, which)[key] for client in clients)

        told: dict[str, str] = {}

        def settled() -> bool:
            told.clear()
            for message in broker.server.retained.match("$SYS/#", 0):
                told[message.topic.removeprefix(ROOT)] = message.payload.decode()
            return told.get("bytes/sent") == str(books("got", "bytes")) and told.get(OWN + "handshakes/failed") == "1"

        expected: dict[str, Any] = {
            "clients/connected": 3, "clients/active": 3, "clients/disconnected": 0, "clients/inactive": 0, "clients/total": 3,
            "clients/maximum": 3, "clients/expired": 0,
            "subscriptions/count": 3, "shared_subscriptions/count": 1,
            "messages/received": books("sent", "packets"), "messages/sent": books("got", "packets"),
            "bytes/received": books("sent", "bytes") + junk, "bytes/sent": books("got", "bytes"),
            "publish/messages/received": 12, "publish/messages/sent": books("got", "publishes"),
            "publish/bytes/received": books("sent", "payload"), "publish/bytes/sent": books("got", "payload"),
            "publish/messages/dropped": 0, "messages/dropped": 0, "messages/stored": 11,
            OWN + "storage/state": "available", OWN + "storage/errors": 0,
            OWN + "pending/messages": 0, OWN + "pending/bytes": 0,
            OWN + "connections/total": 6, OWN + "connections/refused": 0, OWN + "handshakes/failed": 1,
            OWN + "clients/refused": 1, OWN + "clients/slow": 0, OWN + "acl/denied": 1, OWN + "protocol/errors": 0,
            OWN + "retention/removed": 0, OWN + "retention/unacknowledged": 0, OWN + "inboxes/trimmed": 0,
            OWN + "hooks/errors": 0, OWN + "events/dropped": 0,
        }  # fmt: skip
        with contextlib.suppress(AssertionError, TimeoutError):  # what differs is said below
            await until(settled, patience=10)
        moving = {name for name in told if name.startswith("load/")} | {"uptime", "version", "retained messages/count"}
        moving |= {OWN + "groups/count", OWN + "groups/messages"}
        assert {name: told.get(name) for name in expected} == {name: str(value) for name, value in expected.items()}
        assert set(told) - moving == set(expected)
        assert 2 <= int(told["retained messages/count"]) <= broker.server.retained.count  # t/keep, and the figures themselves
        assert 0 < int(told[OWN + "groups/count"]) <= int(told[OWN + "groups/messages"]) + 20
        for name in ("messages/received", "messages/sent", "publish/received", "publish/sent", "bytes/received", "bytes/sent"):
            assert float(told[f"load/{name}/1min"]) > 0, name
        assert float(told["load/sockets/1min"]) > 0
        assert float(told["load/connections/1min"]) > 0
        assert float(told["load/publish/dropped/1min"]) == 0
        for client in clients:
            await client.drop()
