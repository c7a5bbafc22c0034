"""Recalling a message: over MQTT, HTTP and `$sync/request`, by who may, and what everybody gets of it then."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from broker.packets.model import PubAck
from broker.packets.properties import Property
from plugins.recall import RecallPlugin
from plugins.recall.moderators import moderators_of
from tests.http.conftest import Site, site
from tests.recall.conftest import NO_SUBSCRIBERS, NOT_AUTHORIZED, SPECIFIC, TOPIC
from tests.support.broker import Broker
from tests.support.cluster import cluster
from tests.support.paho_client import PahoClient
from tests.support.until import until
from tests.support.wire import Client

SECRET = b"the secret " * 9


@pytest.fixture
async def tour() -> AsyncIterator[Site]:
    async with site(plugins={"recall": {"within": "1h"}}) as made:
        yield made


def pairs(message: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in message.properties.get(Property.USER_PROPERTY, ())]


def recalling(*ids: int) -> dict[int, Any]:
    return {Property.USER_PROPERTY: [("tideline-recalls", f"{one:016x}") for one in ids]}


async def stored(broker: Broker, topic: str = TOPIC) -> list[Any]:
    return list(await broker.server.storage.read_conversation(topic))


async def test_a_message_is_recalled_wherever_it_is(chat: Site) -> None:
    """Who has had it, who has not yet, by either version of MQTT; the retained one; the history. Its place stays."""
    had = await chat.durable("had", 5)
    absent, old = await chat.durable("absent", 5), await chat.durable("old", 4)
    for reader in (had, absent, old):
        await reader.subscribe("chat/#", options=1)
    await chat.lose(absent, "absent")
    await chat.lose(old, "old")
    sender = await chat.client("sender", 5)
    await sender.publish(TOPIC, SECRET, retain=True, properties={Property.CONTENT_TYPE: "text/plain"})
    await sender.publish(TOPIC, b"stays")
    secret = (await stored(chat))[0].id
    assert await sender.publish(TOPIC, properties=recalling(secret)) == 0
    assert [m.payload for m in await had.messages(2)] == [SECRET, b"stays"]
    tombstone = await had.message()
    assert (tombstone.payload, pairs(tombstone)) == (b"", [("tideline-recalls", f"{secret:016x}")])
    by = (await stored(chat))[2].id
    absent = await chat.durable("absent", 5)
    got = await absent.messages(3)
    assert [m.payload for m in got] == [b"", b"stays", b""]
    assert got[0].properties == {Property.USER_PROPERTY: [("tideline-recalled", f"{by:016x}")]}
    old = await chat.durable("old", 4)
    assert [m.payload for m in await old.messages(3)] == [b"", b"stays", b""]
    late = await chat.client("late", 5)
    await late.subscribe(TOPIC, options=1)
    await late.quiet()
    page = (await chat.caller().get(f"/conversations/{TOPIC}/messages", params={"after": 0, "order": "oldest"})).json()
    assert [m["payload"] for m in page["messages"]] == ["", "stays", ""]
    assert [m["recalled"] for m in page["messages"]] == [f"{by:016x}", None, None]
    assert page["messages"][0]["content_type"] is None


async def test_stock_clients_recall(tour: Site) -> None:
    """paho with MQTT 5 by a user property, paho with 3.1.1 by `$sync/request`, and curl's way by HTTP."""
    reader, five, three = PahoClient("reader", paho.MQTTv5), PahoClient("five", paho.MQTTv5), PahoClient("three")
    for client in (reader, five, three):
        await asyncio.to_thread(client.connect, tour.address)
    await asyncio.to_thread(reader.subscribe, "chat/#")
    await asyncio.to_thread(three.subscribe, "$sync/reply/three")
    for client in (five, three, five):
        await asyncio.to_thread(client.publish, TOPIC, SECRET)
    ids = [message.id for message in await stored(tour)]
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("tideline-recalls", f"{ids[0]:016x}")]
    assert await asyncio.to_thread(lambda: five.publish(TOPIC, b"", properties=properties)) == "Success"
    asked = json.dumps({"op": "recall", "message": f"{ids[1]:016x}", "id": 7}).encode()
    await asyncio.to_thread(three.publish, "$sync/request", asked)
    _, answer = await asyncio.to_thread(three.receive)
    told = json.loads(answer)
    assert (told["id"], told["recalled"], told["again"]) == (7, f"{ids[1]:016x}", False)
    caller = tour.caller()  # as it comes, a caller on this machine is the operator
    first = (await caller.post(f"/messages/{ids[2]:016x}/recall", json={})).json()
    assert first["recalled"] == f"{ids[2]:016x}"
    assert (await caller.post(f"/messages/{ids[2]:016x}/recall", json={})).json()["again"]
    assert [m.recalled for m in await stored(tour)] == [True, True, True, False, False, False]
    got = [await asyncio.to_thread(reader.message) for _ in range(6)]
    named = [dict(m.properties.UserProperty)["tideline-recalls"] for m in got[3:]]  # type: ignore[union-attr]
    assert named == [f"{one:016x}" for one in ids]
    for client in (reader, five, three):
        await asyncio.to_thread(client.close)


async def test_who_may_not_is_refused_and_nothing_is_stored(tour: Site) -> None:
    """Another sender, an unknown message, one of another topic, and what makes no sense: each told alone."""
    sender, eve = await tour.client("sender", 5), await tour.client("eve", 5)
    await sender.publish(TOPIC, SECRET)
    await sender.publish("chat/other", SECRET)
    (secret,), (other,) = await stored(tour), await stored(tour, "chat/other")
    assert await eve.publish(TOPIC, properties=recalling(secret.id)) == NOT_AUTHORIZED
    assert await sender.publish(TOPIC, properties=recalling(secret.id, 5)) == NOT_AUTHORIZED
    assert await sender.publish(TOPIC, properties=recalling(other.id)) == NOT_AUTHORIZED
    assert await sender.publish(TOPIC, b"payload", properties=recalling(secret.id)) == SPECIFIC
    nonsense: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", "nonsense")]}
    assert await sender.publish(TOPIC, properties=nonsense) == SPECIFIC
    assert await sender.publish(TOPIC, properties=recalling(*range(1, 102))) == SPECIFIC
    forged: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalled", f"{secret.id:016x}")]}
    assert await sender.publish(TOPIC, properties=forged) == NOT_AUTHORIZED
    for one, other_one in itertools.combinations(("recalls", "edits", "reacts", "unreacts"), 2):
        named = [(f"tideline-{name}", f"{secret.id:016x}") for name in (one, other_one)]
        payload = b"" if one == "recalls" else b"x"
        assert await sender.publish(TOPIC, payload, properties={Property.USER_PROPERTY: named}) == SPECIFIC, named
    assert [m.payload for m in await stored(tour)] == [SECRET]
    assert await sender.publish(TOPIC, properties=recalling(secret.id)) == NO_SUBSCRIBERS
    tombstone = (await stored(tour))[1]
    assert await sender.publish(TOPIC, properties=recalling(tombstone.id)) == SPECIFIC
    assert len(await stored(tour)) == 2
    assert (await tour.caller().post("/messages/0000000000000001/recall", json={})).status_code == 404


async def test_a_sender_has_its_time_and_a_moderator_any(tour: Site) -> None:
    plugin = tour.server.api.plugin(RecallPlugin)
    assert plugin is not None
    sender, moderator = await tour.client("sender", 5), await tour.client("mod", 5)
    await sender.publish(TOPIC, SECRET)
    (secret,) = await stored(tour)
    plugin.config.within = 1e-6
    await until(lambda: tour.server.time.wall() > secret.time)
    assert await sender.publish(TOPIC, properties=recalling(secret.id)) == NOT_AUTHORIZED

    async def moderates(user: str, topic: str) -> bool:
        return (user, topic) == ("c/mod", TOPIC)

    moderators_of(plugin.context).append(moderates)
    assert await moderator.publish(TOPIC, properties=recalling(secret.id)) == NO_SUBSCRIBERS
    assert (await stored(tour))[0].recalled


async def test_memory_serves_nothing_of_it(tmp_path: Path) -> None:
    """What was pushed, or read in a page, before the recall, for a durable, a clean and a group's reader that was slow."""
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"recall": {}}) as made:
        readers = {"durable": "chat/#", "clean": "chat/#", "member": "$share/g/chat/#", "lagging": "chat/#"}
        slow: dict[str, Client] = {}
        for name, filter_ in readers.items():
            connect = made.client if name == "clean" else made.durable
            slow[name] = await connect(name, 5, properties={Property.RECEIVE_MAXIMUM: 1})
            await slow[name].subscribe(filter_, options=1)
        await made.lose(slow["lagging"], "lagging")
        sender = await made.client("sender", 5)
        for payload in (b"first", SECRET, b"last"):
            await sender.publish(TOPIC, payload)
        slow["lagging"] = await made.durable("lagging", 5, properties={Property.RECEIVE_MAXIMUM: 1})
        firsts = {name: await client.message(finish=False) for name, client in slow.items()}
        secret = (await stored(made))[1].id
        assert await sender.publish(TOPIC, properties=recalling(secret)) == 0
        for name, client in slow.items():
            assert firsts[name].payload == b"first"
            client.send(_ack(firsts[name]))
            assert [m.payload for m in await client.messages(3)] == [b"", b"last", b""], name


def _ack(message: Any) -> Any:
    return PubAck(message.packet_id)


async def test_other_nodes_serve_nothing_of_it() -> None:
    """A reader of another node that was slow, and one that takes part in no conversation there: every node is told."""
    async with cluster(3, plugins={"recall": {}}) as made, asyncio.timeout(60):
        one, two, three = made.nodes
        slow = await two.durable("slow", 5, properties={Property.RECEIVE_MAXIMUM: 1})
        await slow.subscribe("chat/#", options=1)
        sender = await one.client("sender", 5)
        for payload in (b"first", SECRET):
            await sender.publish(TOPIC, payload, retain=payload == SECRET)
        first = await slow.message(finish=False)
        secret = (await stored(one))[1].id
        again = await three.client("sender", 5)
        assert await again.publish(TOPIC, properties=recalling(secret)) == 0
        await until(lambda: all(secret in node.server.delivery.recalled for node in made.nodes))
        slow.send(_ack(first))
        assert [m.payload for m in await slow.messages(2)] == [b"", b""]
        late = await two.client("late", 5)
        await late.subscribe(TOPIC, options=1)
        await late.quiet()
