"""Members of one shared subscription, on whichever node, and what they were sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from broker.packets.model import PubAck, PubComp, Publish, PubRec, PubRel
from storage.shared_inboxes import Division
from tests.support.cluster import Node
from tests.support.until import until
from tests.support.wire import Client, Closed

SHARE = "$share/crew/work/#"
GROUP = "s/crew/work/#"


class Reader:
    """Takes what a member is sent. It acknowledges unless ``silent``, and then it only remembers the packet identifiers."""

    def __init__(self, client: Client, *, silent: bool = False) -> None:
        self.client = client
        self.silent = silent
        self.got: list[bytes] = []
        self.packets: list[Publish] = []
        self.completed = 0
        self._task = asyncio.create_task(self._read())

    def finish(self) -> None:
        """Acknowledge what was not, and what comes."""
        self.silent = False
        for packet in self.packets:
            if packet.qos:
                self.client.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))

    async def leave(self) -> None:
        """Disconnect in order."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.client.leave()

    async def _read(self) -> None:
        with suppress(Closed, ConnectionError):
            while True:
                packet = await self.client.receive(timeout=60)
                if isinstance(packet, Publish):
                    self.got.append(packet.payload)
                    self.packets.append(packet)
                    if packet.qos and not self.silent:
                        self.client.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
                elif isinstance(packet, PubRel):
                    self.client.send(PubComp(packet.packet_id))
                    self.completed += 1


async def member(node: Node, name: str, qos: int = 1, *, clean: bool = False, silent: bool = False, **connect: Any) -> Reader:
    """A client with the subscription."""
    client = await (node.client(name, 5, **connect) if clean else node.durable(name, 5, **connect))
    assert await client.subscribe(SHARE, options=qos) == [qos]
    return Reader(client, silent=silent)


async def back(node: Node, name: str, *, silent: bool = False, **connect: Any) -> Reader:
    """A member that connects again."""
    return Reader(await node.durable(name, 5, **connect), silent=silent)


async def publish(client: Client, count: int, qos: int = 1, start: int = 0) -> list[bytes]:
    """So many messages, acknowledged; what is in them."""
    payloads = [b"%d" % number for number in range(start, start + count)]
    for payload in payloads:
        assert not await client.publish("work/now", payload, qos)
    return payloads


def counted(readers: Iterable[Reader]) -> Counter[bytes]:
    return Counter(payload for reader in readers for payload in reader.got)


async def all_came(readers: Sequence[Reader], payloads: Iterable[bytes]) -> None:
    """Each of these has come to somebody."""
    wanted = set(payloads)
    await until(lambda: wanted <= set(counted(readers)), lambda: f"missing: {sorted(wanted - set(counted(readers)))}")


async def all_once(readers: Sequence[Reader], payloads: Iterable[bytes]) -> None:
    """Each of these has come to one of them, once."""
    wanted = list(payloads)
    await all_came(readers, wanted)
    assert counted(readers) == Counter(wanted)


async def division(node: Node) -> Division:
    """How the group's inbox is divided."""
    assert node.storage.cluster is not None
    return dict(await node.storage.cluster.shared_inboxes.divided())[GROUP]
