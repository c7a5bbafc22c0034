"""A device that reads over MQTT and over HTTP in turn gets every message once that it acknowledged, in order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from broker.packets.model import PingReq, PingResp, PubAck, PubComp, Publish, PubRec, PubRel
from tests.http.conftest import Site


async def over_mqtt(users: Site, version: int, count: int) -> list[int]:
    """Connect, acknowledge so many of the messages that come, and go with or without a goodbye."""
    laptop = await users.device("alice", "laptop", version)
    got: list[int] = []
    halfway: set[int] = set()
    while len(got) < count or halfway:
        packet = await laptop.receive()
        if isinstance(packet, PubRel):  # also of what was acknowledged over HTTP in the midst of QoS 2
            laptop.send(PubComp(packet.packet_id))
            halfway.discard(packet.packet_id)
        elif isinstance(packet, Publish) and len(got) < count:
            got.append(int(packet.payload))
            laptop.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
            if packet.qos == 2:
                halfway.add(packet.packet_id)
    laptop.send(PingReq())
    while not isinstance(await laptop.receive(), PingResp):
        pass  # messages that this device got and never acknowledged
    if count % 2:
        await laptop.leave()
    else:
        await users.lose(laptop, "laptop")
    return got


async def over_http(http: Any, count: int) -> list[int]:
    """Claim the device, and acknowledge so many of its entries."""
    page = (await http.get("/sync", params={"device": "laptop", "limit": 50})).json()
    taken = page["entries"][:count]
    if taken:
        ack = {"device": "laptop", "epoch": page["epoch"], "offset": taken[-1]["offset"]}
        assert (await http.post("/sync/ack", json=ack)).status_code == 200
    return [int(entry["message"]["payload"]) for entry in taken]


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_and_nothing_comes_twice(users: Site, seed: int) -> None:
    dice = random.Random(seed)
    version = dice.choice([4, 5])
    laptop = await users.device("alice", "laptop", version)
    await laptop.subscribe("chat/#", options=2)
    await laptop.leave()
    sender, http = await users.device("bob", "sender"), users.caller("alice")
    sent = 0
    got: list[int] = []
    async with asyncio.timeout(60):
        for _ in range(12):
            for _ in range(dice.randrange(1, 8)):
                await sender.publish("chat/a", b"%d" % sent, qos=dice.choice([1, 2]))
                sent += 1
            count = dice.randrange(sent - len(got) + 1)
            got += await (over_http(http, count) if dice.random() < 0.5 else over_mqtt(users, version, count))
        got += await over_http(http, sent - len(got))
    assert got == list(range(sent))
    assert (await http.get("/devices/laptop")).json()["lag"] == 0
