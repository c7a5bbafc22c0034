"""Whatever devices, publishers and jobs do: no living device ever loses an entry that it has not acknowledged."""

from __future__ import annotations

import asyncio
import random

import pytest

from broker.packets.model import PingReq, PingResp, PubAck, Publish
from plugins.jobs import inboxes, retention
from tests.jobs.conftest import House, MakeHouse
from tests.support.seeds import seeds
from tests.support.wire import Client

NAMES = {
    "amqtt.plugins.authentication.AnonymousAuthPlugin": False,
    "tests.support.laws_auth.NameIsPassword": {},
}
RULES = [{"filter": "chat/a", "max_messages": 0}, {"filter": "#", "max_messages": 2}]
TOPICS = ("chat/a", "chat/b", "chat/c")


class Device:
    """A device with its own subscription: what it is due and has not acknowledged, in order."""

    def __init__(self, house: House, user: str, name: str) -> None:
        self.house, self.user, self.name = house, user, name
        self.client: Client | None = None
        self.due: list[bytes] = []
        self.flying: dict[bytes, int] = {}

    async def connect(self, filter_: str = "") -> None:
        if self.client is None:
            self.client = await self.house.durable(self.name, username=self.user, password=self.user.encode())
            if filter_:
                await self.client.subscribe(filter_, options=1)

    async def drop(self) -> None:
        if self.client is not None:
            await self.house.lose(self.client, self.name)
            self.client = None
            self.flying.clear()

    async def receive(self) -> None:
        """Everything that is due and not in flight yet comes, in order."""
        assert self.client is not None
        for payload in [payload for payload in self.due if payload not in self.flying]:
            message = await self.client.message(finish=False)
            assert message.payload == payload, f"{self.name} is due {payload!r} and got {message.payload!r}"
            self.flying[payload] = message.packet_id

    async def acknowledge(self, payloads: list[bytes]) -> None:
        assert self.client is not None
        for payload in payloads:
            self.client.send(PubAck(self.flying.pop(payload)))
            self.due.remove(payload)
        await self.client.ping()


class Member(Device):
    """A member of a shared group; ``due`` is the group's, which all members have in common, in no order."""

    async def receive(self) -> None:
        assert self.client is not None
        self.client.send(PingReq())
        while not isinstance(packet := await self.client.receive(), PingResp):
            self.take(packet)

    def take(self, packet: object) -> None:
        assert isinstance(packet, Publish)
        assert packet.payload in self.due
        self.flying[packet.payload] = packet.packet_id

    async def acknowledge(self, payloads: list[bytes]) -> None:
        assert self.client is not None
        for payload in payloads:
            self.client.send(PubAck(self.flying.pop(payload)))
            self.due.remove(payload)
        self.client.send(PingReq())
        while not isinstance(packet := await self.client.receive(), PingResp):
            self.take(packet)


async def play(house: House, seed: int, steps: int) -> dict[str, int]:
    dice = random.Random(seed)
    devices = [Device(house, "ann", "phone"), Device(house, "ann", "tablet"), Device(house, "bob", "laptop")]
    group = [Member(house, "cas", "worker-1"), Member(house, "dan", "worker-2")]
    group[1].due = group[0].due
    for device in devices:
        await device.connect("chat/#")
    for member in group:
        await member.connect("$share/crew/chat/#")
    publisher = await house.client("publisher", username="pub", password=b"pub")
    runs, number = 0, 0
    for _ in range(steps):
        device = dice.choice([*devices, *group])
        match dice.choice(("publish", "publish", "connect", "drop", "acknowledge", "acknowledge", "retention", "inboxes")):
            case "publish" if len(group[0].due) < 60 and all(len(d.due) < 60 for d in devices):
                for _ in range(dice.randrange(1, 6)):
                    number += 1
                    payload = b"%d" % number
                    for due in (*(d.due for d in devices), group[0].due):
                        due.append(payload)
                    await publisher.publish(dice.choice(TOPICS), payload)
            case "connect":
                await device.connect()
            case "drop":
                await device.drop()
            case "acknowledge" if device.client is not None:
                await device.receive()
                flying = list(device.flying)
                await device.acknowledge(dice.sample(flying, dice.randrange(len(flying) + 1)))
            case "retention" | "inboxes" as job if house.jobs.job(job)["running"] is None:
                house.jobs.run(job)  # it goes on while the others act
                runs += 1
            case _:
                pass
    for job in ("retention", "inboxes"):
        await house.jobs.ended(job)
    for device in devices:
        await device.connect()
        await device.receive()
        await device.acknowledge(list(device.due))
    await group[1].drop()
    await group[0].connect()
    async with asyncio.timeout(20):
        while group[0].due:
            await group[0].receive()
            await group[0].acknowledge(list(group[0].flying))
    removed = await house.run("retention")
    trimmed = await house.run("inboxes")
    assert removed["spared"] == 0, "nobody waits any more"
    for topic in TOPICS:
        first, last = await house.storage.conversation_bounds(topic)
        assert last - first + 1 <= (0 if topic == "chat/a" else 2)
    for inbox in ("u/ann", "u/bob", "s/crew/chat/#"):
        assert await house.storage.inbox_bounds(inbox) == (number + 1, number)
    counters = house.server.counters
    assert counters.entries_lost == 0
    return {"runs": runs, "removed": counters.messages_removed, "trimmed": counters.entries_trimmed + trimmed["removed"]}


@pytest.mark.parametrize(("seed", "steps"), seeds((0, 50), more=[(seed, 90) for seed in range(4)]))
async def test_no_living_device_loses_what_it_has_not_acknowledged(
    seed: int, steps: int, house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 1)
    monkeypatch.setattr(inboxes, "STEP", 1)
    monkeypatch.setattr("plugins.jobs.waiting.PAGE", 3)
    async with house(RULES, plugins=NAMES, inboxes={"schedule": "never", "keep": 0}) as made:
        done = await play(made, seed, steps)
    assert done["runs"] > 3
    assert done["removed"] > 20
