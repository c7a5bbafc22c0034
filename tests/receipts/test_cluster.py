"""In a cluster, whichever node is asked tells of all devices as they are at this moment."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from broker.packets.model import PubAck
from broker.packets.properties import Property
from plugins.http import HttpPlugin
from tests.support.cluster import Node, cluster
from tests.support.until import until

PLUGINS: dict[str, Any] = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}, "requests": {}, "receipts": {}}
GROUP = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]


async def asked(node: Node, message_id: str, what: str = "ledger") -> Any:
    plugin = node.server.api.plugin(HttpPlugin)
    assert plugin is not None
    async with httpx.AsyncClient(base_url="http://{}:{}/v1".format(*plugin.address), timeout=30) as client:
        return (await client.get(f"/messages/{message_id}/{what}")).json()


async def answered_by_all(node: Node, message_id: str, what: str = "ledger") -> Any:
    """The page, once this node has heard of the others: of one that has just started it says so, and tells what is stored."""

    async def page() -> Any:
        told = await asked(node, message_id, what)
        return told if told["silent"] == [] else None

    return await until(page, f"a {what} that every node had a part in")


async def test_a_device_of_another_node_is_told_as_that_node_has_it() -> None:
    async with cluster(2, plugins=PLUGINS, policies=GROUP) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        await phone.subscribe("$sync/receipts/phone")
        bob, eve = await other.durable("bob", 5), await other.durable("eve", 5)
        await bob.subscribe("chat/#", "group/#", options=1)
        await eve.subscribe("chat/#", options=1)
        await eve.leave()
        for topic in ("chat/a", "group/a"):
            properties: dict[Any, Any] = {Property.USER_PROPERTY: [("tideline-receipt", "acknowledged")]}
            await phone.publish(topic, b"hello", 1, properties=properties)
            stored = json.loads((await phone.message()).payload)
            packet = await bob.message(finish=False)
            for node in (one, other):
                page = await answered_by_all(node, stored["message"])
                states = {h["user"]: (h["devices"][0]["state"], h["devices"][0]["connected"]) for h in page["holders"]}
                assert states["c/bob"] == ("delivered", True)
                assert states.get("c/eve") == (("stored", False) if topic == "chat/a" else None)
            bob.send(PubAck(packet.packet_id))
            await bob.ping()
            for node in (one, other):
                page = await answered_by_all(node, stored["message"], "counts")
                assert page["counts"]["users"]["acknowledged"] == 1
            told = json.loads((await phone.message()).payload)
            assert (told["state"], told["count"]) == ("acknowledged", 1)


async def test_a_node_that_does_not_answer_is_named() -> None:
    async with cluster(2, lease=30.0, plugins=PLUGINS) as made:
        one, other = made.nodes
        bob = await other.durable("bob", 5)
        await bob.subscribe("chat/#", options=1)
        phone = await one.client("phone", 5)
        await phone.publish("chat/a", b"hello", 1)
        await bob.message()
        (message,) = await one.storage.read_conversation("chat/a")
        page = await asked(one, f"{message.id:016x}")
        assert page["silent"] == ["node 2, which has just started"], "it is not known yet, so nobody is asked"
        assert one.storage.cluster is not None
        known: Any = one.server.cluster
        known.members.beat(time.monotonic(), await one.storage.cluster.nodes())
        other.freeze()
        page = await asked(one, f"{message.id:016x}")
        other.thaw()
        assert page["silent"] == ["1 (memory-1)"]
