"""Durable sessions that nobody is connected to are held in storage alone, and nobody notices: neither publisher nor device."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import Publish, PubRec, PubRel, Will
from broker.packets.properties import Property
from broker.sessions import lifecycle
from storage.records import DeviceKey
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is put away as soon as nobody uses it."""
    monkeypatch.setattr(lifecycle, "IDLE", 0.0)
    monkeypatch.setattr(lifecycle, "_LOOK", 0.0)


@pytest.fixture
async def watcher(stored: Broker) -> Client:
    client = await stored.client("watcher", 5)
    await client.subscribe("will/#")
    return client


async def put_away(broker: Broker, client_id: str) -> None:
    await until(lambda: not broker.server.sessions.named(client_id))


async def leaves(broker: Broker, client: Client, client_id: str) -> None:
    """The device loses its network, and its session is put away."""
    await broker.lose(client, client_id)
    await put_away(broker, client_id)


async def test_what_is_published_meanwhile_waits(stored: Broker, version: int) -> None:
    reader = await stored.durable("reader", version)
    await reader.subscribe("exact", "some/+/thing", "deep/#", options=1)
    before = len(stored.server.sessions), stored.server.trie.count
    await leaves(stored, reader, "reader")
    assert (len(stored.server.sessions), stored.server.trie.count) == before
    writer = await stored.client("writer", 5)
    topics = ["exact", "some/other/thing", "deep/er", "exact"]
    for number, topic in enumerate([*topics, "nobody"]):
        code = await writer.publish(topic, b"%d" % number)
        assert code == (ReasonCode.NO_MATCHING_SUBSCRIBERS if topic == "nobody" else ReasonCode.SUCCESS)
    assert not stored.server.sessions.named("reader"), "a publish brings nobody back"
    reader = await stored.socket(version)
    assert (await reader.connect("reader", clean=False, expiry=3600 if version == 5 else None)).session_present
    assert [(m.topic, m.payload) for m in await reader.messages(4)] == [(t, b"%d" % n) for n, t in enumerate(topics)]
    await writer.publish("some/live/thing", b"live")
    assert (await reader.message()).payload == b"live"
    await leaves(stored, reader, "reader")
    await (await stored.durable("reader", version)).quiet()


async def test_several_devices_of_a_user_come_and_go(url: str) -> None:
    """One is connected while the other is away: each gets everything once, in order."""
    ann: dict[str, Any] = {"username": "ann", "password": b"ann"}
    async with running(url, plugins={"tests.support.laws_auth.NameIsPassword": {}}) as broker:
        one, two = await broker.durable("one", **ann), await broker.durable("two", **ann)
        await one.subscribe("t", "u/#", options=1)
        await two.subscribe("t", "u/#", options=1)
        writer = await broker.client("writer", username="bob", password=b"bob")
        await leaves(broker, two, "two")
        for number in range(3):
            await writer.publish("t" if number % 2 else "u/x", b"%d" % number)
        assert [m.payload for m in await one.messages(3)] == [b"0", b"1", b"2"]
        await leaves(broker, one, "one")
        await writer.publish("u/y", b"3")
        two = await broker.durable("two", **ann)
        assert [m.payload for m in await two.messages(4)] == [b"0", b"1", b"2", b"3"]
        await two.unsubscribe("u/#")
        await writer.publish("u/z", b"4")
        one = await broker.durable("one", **ann)
        assert [m.payload for m in await one.messages(2)] == [b"3", b"4"]
        await two.quiet()


async def test_subscription_options_come_back(stored: Broker) -> None:
    both = await stored.durable("both", 5)
    await both.subscribe("own", options=1 | 4, properties={Property.SUBSCRIPTION_IDENTIFIER: 7})  # no local
    await leaves(stored, both, "both")
    both = await stored.durable("both", 5)
    await both.publish("own", b"mine")
    await (await stored.client("other")).publish("own", b"theirs")
    message = await both.message()
    assert (message.payload, message.properties) == (b"theirs", {Property.SUBSCRIPTION_IDENTIFIER: [7]})


async def test_what_is_in_flight_is_sent_again(stored: Broker, version: int) -> None:
    reader = await stored.durable("reader", version)
    await reader.subscribe("t", options=2)
    writer = await stored.client("writer")
    for qos in (1, 2, 2):
        await writer.publish("t", b"qos %d" % qos, qos)
    first, second, third = [await reader.message(finish=False) for _ in range(3)]
    reader.send(PubRec(second.packet_id))
    await reader.receive()  # PUBREL: what it stands for is stored
    await leaves(stored, reader, "reader")
    reader = await stored.durable("reader", version)
    again = [await reader.receive() for _ in range(3)]
    releases = [packet.packet_id for packet in again if isinstance(packet, PubRel)]
    publishes = [(packet.packet_id, packet.payload, packet.dup) for packet in again if isinstance(packet, Publish)]
    assert releases == [second.packet_id]
    assert publishes == [(first.packet_id, b"qos 1", True), (third.packet_id, b"qos 2", True)]


async def test_a_message_of_qos_2_that_came_before_is_not_stored_twice(stored: Broker, version: int) -> None:
    writer = await stored.durable("writer", version)
    writer.send(Publish("t", b"x", 2, packet_id=9))
    await writer.expect(PubRec)
    await leaves(stored, writer, "writer")
    writer = await stored.durable("writer", version)
    writer.send(Publish("t", b"x", 2, dup=True, packet_id=9))
    await writer.expect(PubRec)
    assert await stored.server.storage.conversation_bounds("t") == (1, 1)


async def test_a_delayed_will_comes_and_the_session_stays(stored: Broker, watcher: Client) -> None:
    """[MQTT-3.1.3-9]"""
    will = Will("will/c", b"gone", properties={Property.WILL_DELAY: 1})
    began = stored.server.clock.now()
    await leaves(stored, await stored.durable("c", 5, will=will), "c")
    assert (await watcher.message()).payload == b"gone"
    assert 1.0 <= stored.server.clock.now() - began <= 4.0
    again = await stored.socket(5)
    assert (await again.connect("c", clean=False, expiry=3600)).session_present
    await watcher.quiet()


async def test_a_device_that_comes_back_in_time_keeps_its_will_unsent(stored: Broker, watcher: Client) -> None:
    will = Will("will/c", b"gone", properties={Property.WILL_DELAY: 1})
    await leaves(stored, await stored.durable("c", 5, will=will), "c")
    await stored.durable("c", 5)
    other = Will("will/other", b"other", properties={Property.WILL_DELAY: 1})
    await leaves(stored, await stored.durable("other", 5, will=other), "other")
    assert (await watcher.message()).payload == b"other"


async def test_a_session_ends_at_its_time(stored: Broker, watcher: Client) -> None:
    """Its will, which waits for longer, comes with it."""
    will = Will("will/c", b"gone", properties={Property.WILL_DELAY: 100})
    client = await stored.durable("c", 5, will=will)
    await client.subscribe("t")
    await stored.lose(await stored.client("d", 5, clean=False, expiry=2), "d")
    client.send_bytes(b"\xe0\x07\x04\x05\x11\x00\x00\x00\x01")  # DISCONNECT with will, session expiry 1
    await client.closed()
    await put_away(stored, "c")
    assert (await watcher.message()).payload == b"gone"
    await until(lambda: len(stored.server.sessions) == 1)
    assert stored.server.trie.count == 1
    assert stored.server.counters.clients_expired == 2
    await stored.server.api.commit([], 5.0)
    for name in ("c", "d"):
        assert await stored.server.storage.device(DeviceKey(f"c/{name}", name)) is None
        assert not (await (await stored.socket(5)).connect(name, clean=False, expiry=5)).session_present


async def test_a_clean_start_ends_it(stored: Broker, watcher: Client, version: int) -> None:
    """And a will that it delayed is due [MQTT-3.1.3-9]."""
    will = Will("will/c", b"gone", properties={Property.WILL_DELAY: 100})
    client = await stored.durable("c", 5, will=will)
    await client.subscribe("t", options=1)
    await leaves(stored, client, "c")
    client = await stored.client("c", version)
    assert (await watcher.message()).payload == b"gone"
    assert stored.server.trie.count == 1
    await (await stored.client("w")).publish("t", b"x")
    await client.quiet()
    await client.leave()
    assert not (await (await stored.socket(4)).connect("c", clean=False)).session_present


async def test_one_that_ends_and_comes_back_at_once_is_a_new_one(stored: Broker) -> None:
    """Storage has the old one yet: it is not read there."""
    client = await stored.durable("c", 5)
    await client.subscribe("t", options=1)
    await leaves(stored, client, "c")
    async with stored.held() as commits:
        forgetting = asyncio.create_task(stored.server.api.readers.forget(DeviceKey("c/c", "c")))
        await commits.arrived()
        back = await stored.socket(5)
        connecting = asyncio.create_task(back.connect("c", clean=False, expiry=100))
        await until(lambda: any(connection.client_id == "c" for connection in stored.server.connections))
    await forgetting
    assert not (await connecting).session_present
    assert stored.server.trie.count == 0


async def test_two_connections_at_once_take_over(stored: Broker) -> None:
    await leaves(stored, await stored.durable("c", 5), "c")
    clients = [await stored.socket(5) for _ in range(5)]
    acks = await asyncio.gather(*(c.connect("c", clean=False, expiry=100) for c in clients), return_exceptions=True)
    present = [ack for ack in acks if not isinstance(ack, BaseException)]
    assert present
    assert all(ack.session_present for ack in present)
    assert len(stored.server.sessions.named("c")) == len(stored.server.sessions) == 1


async def test_members_of_a_group_stay(stored: Broker) -> None:
    one, two = await stored.durable("one", 5), await stored.durable("two", 5)
    for client in (one, two):
        await client.subscribe("$share/g/t", options=1)
    await stored.lose(one, "one")
    await leaves(stored, await stored.durable("other", 5), "other")
    assert stored.server.sessions.named("one")
    writer = await stored.client("writer")
    for number in range(4):
        await writer.publish("t", b"%d" % number)
    assert [m.payload for m in await two.messages(4)] == [b"0", b"1", b"2", b"3"]


async def test_while_storage_is_away_nobody_is_put_away(stored: Broker) -> None:
    client = await stored.durable("c", 5)
    await client.subscribe("t", options=1)
    async with stored.held() as commits:
        await stored.lose(client, "c")
        await commits.arrived()
        await until(lambda: stored.server.sessions._putting_away)
        assert stored.server.sessions.named("c")
    await put_away(stored, "c")


async def test_after_a_start_only_groups_are_in_memory(tmp_path: Path, version: int) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    async with running(url) as broker:
        for number in range(5):
            client = await broker.durable(f"c{number}", version)
            await client.subscribe(f"own/{number}", "all/#", options=1)
        member = await broker.durable("member", version)
        await member.subscribe("$share/g/t", "own/member", options=1)
    async with running(url) as broker:
        assert [session.key.client_id for session in broker.server.sessions] == ["member"]
        assert (len(broker.server.sessions), broker.server.trie.count) == (6, 5 * 2 + 1 + 1)
        writer = await broker.client("writer")
        for topic in ("own/3", "all/x", "t", "own/member"):
            await writer.publish(topic, topic.encode())
        assert [m.topic for m in await (await broker.durable("c3", version)).messages(2)] == ["own/3", "all/x"]
        assert {m.topic for m in await (await broker.durable("member", version)).messages(2)} == {"t", "own/member"}


async def test_readers_find_it(stored: Broker) -> None:
    """Whoever acts on a device without a connection brings it back for as long as that takes."""
    client = await stored.durable("c", 5)
    await client.subscribe("t", options=1)
    await leaves(stored, client, "c")
    writer = await stored.client("writer")
    for number in range(3):
        await writer.publish("t", b"%d" % number)
        await writer.publish("u", b"not due")
    key, view = DeviceKey("c/c", "c"), stored.server.api
    (state,) = await view.device_states("c/c", key, 9)
    assert (state.key, state.connected, state.durable, state.offset) == (key, False, True, 0)
    assert state.subscriptions == [("t", 1, 0)]
    page = await view.readers.page(key, 0, 10, 1 << 20, None)
    assert [entry.message.payload for entry in page.entries if entry.message] == [b"0", b"1", b"2"]
    claim = await view.readers.claim(key)
    await put_away(stored, "c")
    assert await view.readers.current(key, claim.epoch)
    await put_away(stored, "c")
    assert await view.readers.acknowledge(key, claim.epoch, 2) == 2
    await put_away(stored, "c")
    assert await view.readers.set_offset(key, 1) == 1
    await put_away(stored, "c")
    assert await view.readers.subscribe(key, "u", 1, None) == 1
    await put_away(stored, "c")
    assert await view.readers.unsubscribe(key, "t")
    await put_away(stored, "c")
    assert [s.subscriptions for s in await view.device_states("c/c", key, 9)] == [[("u", 1, 3)]]
    await view.readers.forget(key)
    assert await view.device_states("c/c", key, 9) == []
    assert stored.server.trie.count == 0
