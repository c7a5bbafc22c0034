"""The counts equal a recount: random traffic, and at many moments what each client knows itself."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.amqtt.connected import entries_behind
from broker.packets import matches
from broker.packets.model import PingReq, PingResp, PubAck, Publish
from tests.http.conftest import Site, site
from tests.receipts.conftest import RECEIPTS
from tests.support.until import until
from tests.support.wire import Client

TOPICS = ("chat/a", "chat/b", "group/a", "group/b")
FILTERS = ("chat/a", "chat/+", "group/a", "group/#", "#")


@dataclass
class Device:
    """What a client knows: its filters, each with the number of messages that there were before it, what came, and what it has
    acknowledged."""

    name: str
    filters: dict[str, int] = field(default_factory=dict)
    client: Client | None = None
    came: set[bytes] = field(default_factory=set)
    acknowledged: set[bytes] = field(default_factory=set)
    unanswered: list[Publish] = field(default_factory=list)


class World:
    """The clients, and what was published, in order: topic and payload."""

    def __init__(self, site: Site, sender: Client, seed: int) -> None:
        self.site = site
        self.sender = sender
        self.http = site.caller()
        self.choice = random.Random(seed)
        self.devices = [Device(f"device-{n}") for n in range(6)]
        self.published: list[tuple[str, bytes]] = []

    async def act(self) -> None:
        """Something happens."""
        device = self.choice.choice(self.devices)
        publish, take = self._publish, self._take
        acts = (publish, publish, publish, take, take, self._subscribe, self._unsubscribe, self._come_or_go)
        await self.choice.choice(acts)(device)

    async def _publish(self, device: Device) -> None:
        topic, payload = self.choice.choice(TOPICS), b"%d" % len(self.published)
        await self.sender.publish(topic, payload, 1)
        self.published.append((topic, payload))

    async def _come_or_go(self, device: Device) -> None:
        if device.client is not None:
            await self._drain(device)
            await device.client.leave()
            device.client, device.unanswered = None, []
        else:
            device.client = await self.site.durable(device.name, 5)

    async def _subscribe(self, device: Device) -> None:
        if device.client is not None:
            filter_ = self.choice.choice(FILTERS)
            await self._drain(device)
            await device.client.subscribe(filter_, options=1)
            device.filters.setdefault(filter_, len(self.published))

    async def _unsubscribe(self, device: Device) -> None:
        if device.client is not None and device.filters:
            filter_ = self.choice.choice(sorted(device.filters))
            await self._drain(device)
            await device.client.unsubscribe(filter_)
            del device.filters[filter_]

    async def _take(self, device: Device) -> None:
        """Acknowledge some of what came, in any order."""
        await self._drain(device)
        self.choice.shuffle(device.unanswered)
        for _ in range(self.choice.randrange(4)):
            if device.client is not None and device.unanswered:
                packet = device.unanswered.pop()
                device.client.send(PubAck(packet.packet_id))
                device.acknowledged.add(packet.payload)

    async def _drain(self, device: Device) -> None:
        """Take what the broker has sent until now."""
        if device.client is not None:
            await until(lambda: self._given_all(device))
            device.client.send(PingReq())
            while not isinstance(packet := await device.client.receive(), PingResp):
                assert isinstance(packet, Publish)
                device.came.add(packet.payload)
                device.unanswered.append(packet)

    def _given_all(self, device: Device) -> bool:
        """Whether the broker has written all that it may write now."""
        (session,) = self.site.server.sessions.named(device.name)
        return not entries_behind(session) and not session.window.full

    async def settled(self) -> None:
        """The broker has taken what was sent to it, and the clients what it has sent."""
        for _ in range(2):
            for device in self.devices:
                await self._drain(device)

    def expected(self, number: int) -> dict[str, int]:
        """Devices that a message is due to, that were given it, and have acknowledged it, by what the clients know."""
        topic, payload = self.published[number]
        due = [d for d in self.devices if any(at <= number and matches(f, topic) for f, at in d.filters.items())]
        return {
            "due": len(due),
            "delivered": sum(payload in device.came for device in due),
            "acknowledged": sum(payload in device.acknowledged for device in due),
        }


async def recount(site: Site, message_id: int) -> set[str]:
    """Whose inboxes have a message: all of them are looked through."""
    storage, found = site.server.storage, set()
    async for inbox, _, head in storage.inboxes():
        entries = await storage.read_inbox(inbox, 0, head or 1)
        if any(one.message is not None and one.message.id == message_id and not one.target for one in entries):
            found.add(inbox)
    return found


async def counted(http: httpx.AsyncClient, message_id: int, limit: int) -> tuple[dict[str, Any], set[str]]:
    """The ledger's own counts, its pages added up, and whose inboxes it tells."""
    after, holders = "", set()
    totals: dict[str, int] = {}
    while True:
        page = (await http.get(f"/messages/{message_id:016x}/ledger", params={"after": after, "limit": limit})).json()
        for name, count in page["counts"]["devices"].items():
            totals[name] = totals.get(name, 0) + count
        holders |= {f"r/{h['channel']}" if h["channel"] else h["user"] for h in page["holders"]}
        after = page["next"]
        if not after:
            return totals, holders


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
@pytest.mark.parametrize("fanout", ["write", "read"])
async def test_the_counts_equal_a_recount_at_any_moment(tmp_path: Path, fanout: str, seed: int) -> None:
    policies = [{"filter": "group/#", "mode": "sync", "fanout": fanout}]
    persistence = {"persistence": {"url": f"sqlite:///{tmp_path}/t.db", "policies": policies}}
    async with site(plugins={**RECEIPTS, **persistence}) as made:
        world = World(made, await made.client("sender", 5), seed)
        for _ in range(12):
            for _ in range(12):
                await world.act()
            await world.settled()
            await agree(world)


async def agree(world: World) -> None:
    """What the ledger tells of some messages is what the clients know, and what a look through all inboxes finds."""
    storage = world.site.server.storage
    numbers = range(len(world.published))
    for number in world.choice.sample(numbers, min(4, len(numbers))):
        topic, payload = world.published[number]
        page = await storage.read_conversation(topic, limit=500)
        (message_id,) = [message.id for message in page if message.payload == payload]
        totals, holders = await counted(world.http, message_id, world.choice.choice((1, 2, 500)))
        assert {name: totals[name] for name in ("due", "delivered", "acknowledged")} == world.expected(number)
        members = await recount(world.site, message_id)
        assert holders == members or holders == members - {"r/group/#"}, "a channel without members has no users"
