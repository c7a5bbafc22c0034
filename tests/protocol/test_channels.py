"""Large groups: all readers of a filter with read fan-out share one inbox, a channel, and each has its own offset there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Property
from broker.sessions import lifecycle, member_key
from storage.interface import Storage
from storage.records import DeviceKey
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

CHANNEL = "r/group/#"
POLICIES = [{"filter": "group/private/#", "mode": "sync"}, {"filter": "group/#", "mode": "sync", "fanout": "read"}]


def read_fanout(url: str, policies: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"plugins": {"persistence": {"url": url, "policies": POLICIES if policies is None else policies}}}


@pytest.fixture
async def grouped(url: str) -> AsyncIterator[Broker]:
    async with running(url, **read_fanout(url)) as broker:
        yield broker


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is put away as soon as nobody uses it."""
    monkeypatch.setattr(lifecycle, "IDLE", 0.0)
    monkeypatch.setattr(lifecycle, "_LOOK", 0.0)


async def entries(storage: Storage, user: str) -> list[tuple[str, bytes]]:
    found = await storage.read_inbox(user, 0, 10_000)
    assert [entry.seq for entry in found] == list(range(1, len(found) + 1))
    return [(entry.message.topic, entry.message.payload) for entry in found if entry.message is not None]


def numbers(messages: list[Publish]) -> list[int]:
    return [int(message.payload) for message in messages]


async def after_releases(client: Client, count: int) -> list[Publish]:
    """So many messages, and to their end what was under way before."""
    found: list[Publish] = []
    while len(found) < count:
        packet = await client.receive()
        if isinstance(packet, PubRel):
            client.send(PubComp(packet.packet_id))
        elif isinstance(packet, Publish):
            found.append(packet)
            client.send(PubRec(packet.packet_id))
    return found


def place(client_id: str) -> DeviceKey:
    return member_key(CHANNEL, DeviceKey(f"c/{client_id}", client_id))


async def offset(broker: Broker, client_id: str) -> int:
    device = await broker.server.storage.device(place(client_id))
    assert device is not None
    return device.offset


async def test_one_entry_serves_a_thousand_users() -> None:
    """Each of them is given the message, and storage has it once."""
    async with running(**read_fanout("memory://")) as broker:
        storage = broker.server.storage
        here = [await broker.durable(f"here-{n}") for n in range(20)]
        for client in here:
            await client.subscribe("group/+", options=1)
        readers = broker.server.api.readers
        for n in range(980):
            key = DeviceKey(f"c/away-{n}", f"away-{n}")
            await readers.claim(key)
            assert await readers.subscribe(key, "group/chat", 1, None) == 1
        writer = await broker.client("writer")
        for n in range(3):
            await writer.publish("group/chat", b"%d" % n)
        for client in here:
            assert numbers(await client.messages(3)) == [0, 1, 2]
        assert await entries(storage, CHANNEL) == [("group/chat", b"%d" % n) for n in range(3)]
        assert [user async for user, _, last in storage.inboxes() if last and user != CHANNEL] == []
        away = await broker.durable("away-7")
        assert numbers(await away.messages(3)) == [0, 1, 2]


async def test_who_was_away_goes_on_from_its_own_offset(grouped: Broker, version: int) -> None:
    slow, fast = await grouped.durable("slow", version), await grouped.durable("fast", version)
    for client in (slow, fast):
        await client.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"0")
    assert numbers([await slow.message(), await fast.message()]) == [0, 0]
    await grouped.lose(slow, "slow")
    for n in range(1, 6):
        await writer.publish("group/a", b"%d" % n)
    assert numbers(await fast.messages(5)) == [1, 2, 3, 4, 5]
    slow = await grouped.durable("slow", version)
    assert numbers(await slow.messages(5)) == [1, 2, 3, 4, 5]
    await slow.quiet()
    await fast.quiet()


async def test_what_was_not_acknowledged_comes_again(grouped: Broker, version: int) -> None:
    reader = await grouped.durable("reader", version)
    await reader.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    for n in range(4):
        await writer.publish("group/a", b"%d" % n)
    assert numbers([await reader.message(), await reader.message()]) == [0, 1]
    assert numbers([await reader.message(finish=False), await reader.message(finish=False)]) == [2, 3]
    await grouped.lose(reader, "reader")
    reader = await grouped.durable("reader", version)
    again = await reader.messages(2)
    assert numbers(again) == [2, 3]
    assert all(message.dup for message in again)
    await reader.quiet()


async def test_a_broker_that_starts_again_knows_every_offset(url: str, version: int) -> None:
    if url == "memory://":
        pytest.skip("nothing survives there")
    async with running(url, **read_fanout(url)) as broker:
        one, two = await broker.durable("one", version), await broker.durable("two", version)
        for client in (one, two):
            await client.subscribe("group/#", "other/#", options=2)
        writer = await broker.client("writer")
        for n in range(4):
            await writer.publish("group/a", b"%d" % n, 2)
        assert numbers(await one.messages(4)) == [0, 1, 2, 3]
        assert numbers(await two.messages(2)) == [0, 1]
        await two.message(finish=False)
    async with running(url, **read_fanout(url)) as broker:
        writer = await broker.client("writer")
        await writer.publish("group/a", b"4", 2)
        await writer.publish("other/a", b"5", 2)
        one, two = await broker.durable("one", version), await broker.durable("two", version)
        assert sorted(numbers(await one.messages(2))) == [4, 5]
        assert sorted(numbers(await after_releases(two, 4))) == [2, 3, 4, 5]
        await one.quiet()


async def test_qos_2_is_once_over_a_lost_connection(grouped: Broker) -> None:
    reader = await grouped.durable("reader")
    await reader.subscribe("group/#", options=2)
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"0", 2)
    await writer.publish("group/a", b"1", 2)
    first, second = await reader.message(finish=False), await reader.message(finish=False)
    assert numbers([first, second]) == [0, 1]
    reader.send(PubRec(first.packet_id))
    await reader.expect(PubRel)
    await grouped.lose(reader, "reader")
    reader = await grouped.durable("reader")
    packets = [await reader.receive(), await reader.receive()]
    assert [p.packet_id for p in packets if isinstance(p, PubRel)] == [first.packet_id]
    again = [p for p in packets if isinstance(p, Publish)]
    assert numbers(again) == [1]
    assert again[0].dup


async def test_an_inbox_and_two_channels_take_turns(url: str) -> None:
    """Neither of them waits for another one's backlog, and each is in its order."""
    policies = [{"filter": "one/#", "fanout": "read"}, {"filter": "two/#", "fanout": "read"}]
    async with running(url, mqtt={"inflight_window": 1}, **read_fanout(url, policies)) as broker:
        reader = await broker.durable("reader")
        await reader.subscribe("one/#", "two/#", "three/#", options=1)
        await broker.lose(reader, "reader")
        writer = await broker.client("writer")
        for topic in ("one/a", "two/a", "three/a"):
            for n in range(40):
                await writer.publish(topic, b"%d" % n)
        reader = await broker.durable("reader")
        found = await reader.messages(120)
        for topic in ("one/a", "two/a", "three/a"):
            assert numbers([message for message in found if message.topic == topic]) == list(range(40))
        assert {message.topic for message in found[:6]} == {"one/a", "two/a", "three/a"}
        await writer.publish("two/a", b"live")
        assert (await reader.message()).payload == b"live"


async def test_a_filter_may_match_what_a_channel_has_and_what_not(grouped: Broker) -> None:
    reader, other = await grouped.durable("reader"), await grouped.durable("other")
    await reader.subscribe("#", options=1)
    await other.subscribe("group/private/#", options=1)
    writer = await grouped.client("writer")
    for topic in ("group/a", "alone", "group/private/a", "group"):
        await writer.publish(topic, b"x")
    assert {m.topic for m in await reader.messages(4)} == {"group/a", "alone", "group/private/a", "group"}
    assert (await other.message()).topic == "group/private/a"
    await other.quiet()
    storage = grouped.server.storage
    assert [topic for topic, _ in await entries(storage, CHANNEL)] == ["group/a", "group"]
    assert [topic for topic, _ in await entries(storage, "c/reader")] == ["alone", "group/private/a"]
    assert [topic for topic, _ in await entries(storage, "c/other")] == ["group/private/a"]


async def test_clean_sessions_and_shared_groups_get_theirs_as_ever(grouped: Broker) -> None:
    clean, member, reader = await grouped.client("clean"), await grouped.durable("member"), await grouped.durable("reader")
    await clean.subscribe("group/#", options=1)
    await member.subscribe("$share/work/group/#", options=1)
    await reader.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"x")
    for client in (clean, member, reader):
        assert (await client.message()).payload == b"x"
        await client.quiet()
    assert await entries(grouped.server.storage, CHANNEL) == [("group/a", b"x")]
    assert await entries(grouped.server.storage, "s/work/group/#") == [("group/a", b"x")]


async def test_nobody_gets_what_was_there_before_it_subscribed(url: str) -> None:
    """Also where new devices start at the earliest entry of their inbox."""
    settings = read_fanout(url)
    settings["plugins"]["sync"] = {"start": "earliest"}
    async with running(url, **settings) as broker:
        first = await broker.durable("first")
        await first.subscribe("group/a", options=1)
        writer = await broker.client("writer")
        await writer.publish("group/a", b"0")
        second = await broker.durable("second")
        await second.subscribe("group/a", options=1)
        await writer.publish("group/a", b"1")
        await writer.publish("group/b", b"2")
        assert numbers(await first.messages(2)) == [0, 1]
        assert numbers(await second.messages(1)) == [1]
        await second.subscribe("group/b", options=1)
        await writer.publish("group/b", b"3")
        assert numbers(await second.messages(1)) == [3]
        await first.quiet()


async def test_a_retained_message_goes_to_the_device_alone(grouped: Broker) -> None:
    first = await grouped.durable("first")
    await first.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"kept", retain=True)
    assert (await first.message()).payload == b"kept"
    second = await grouped.durable("second")
    await second.subscribe("group/#", options=1)
    message = await second.message()
    assert (message.payload, message.retain) == (b"kept", True)
    await first.quiet()
    assert len(await entries(grouped.server.storage, CHANNEL)) == 1
    assert len(await entries(grouped.server.storage, "c/second")) == 1


async def test_unsubscribing_ends_the_place(grouped: Broker) -> None:
    reader, other = await grouped.durable("reader"), await grouped.durable("other")
    await reader.subscribe("group/a", "group/+", options=1)
    await other.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    await reader.unsubscribe("group/+")
    await writer.publish("group/b", b"0")
    await writer.publish("group/a", b"1")
    assert numbers(await reader.messages(1)) == [1]
    await reader.unsubscribe("group/a")
    assert await grouped.server.storage.device(place("reader")) is None
    await writer.publish("group/a", b"2")
    assert numbers(await other.messages(3)) == [0, 1, 2]
    await reader.quiet()
    await reader.subscribe("group/#", options=1)
    await writer.publish("group/a", b"3")
    assert numbers(await reader.messages(1)) == [3]


async def test_a_clean_start_and_the_end_of_the_session_end_the_place(grouped: Broker) -> None:
    reader = await grouped.durable("reader", 5)
    await reader.subscribe("group/#", options=1)
    await grouped.lose(reader, "reader")
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"0")
    reader = await grouped.client("reader", 5, clean=True, expiry=3600)
    await reader.quiet()
    storage = grouped.server.storage
    assert await storage.device(place("reader")) is None
    await reader.subscribe("group/#", options=1)
    await writer.publish("group/a", b"1")
    assert numbers(await reader.messages(1)) == [1]
    await reader.leave(0, {Property.SESSION_EXPIRY: 0})
    await until(lambda: not grouped.server.sessions.named("reader"))
    await writer.publish("group/a", b"2")
    assert await storage.device(place("reader")) is None
    assert await storage.lowest_offset(CHANNEL) is None


async def test_a_session_in_storage_alone_is_due_what_its_channels_have(grouped: Broker, at_once: None) -> None:
    reader = await grouped.durable("reader")
    await reader.subscribe("group/#", options=1)
    count = len(grouped.server.sessions)
    await grouped.lose(reader, "reader")
    await until(lambda: not grouped.server.sessions.named("reader"))
    assert len(grouped.server.sessions) == count
    writer = await grouped.client("writer", 5)
    assert await writer.publish("group/a", b"0") == ReasonCode.SUCCESS
    reader = await grouped.durable("reader")
    assert numbers(await reader.messages(1)) == [0]
    await writer.publish("group/a", b"1")
    assert numbers(await reader.messages(1)) == [1]


async def test_a_device_is_taken_over_with_its_places(grouped: Broker) -> None:
    old = await grouped.durable("reader")
    await old.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    await writer.publish("group/a", b"0")
    await old.message(finish=False)
    new = await grouped.durable("reader")
    assert numbers(await new.messages(1)) == [0]
    await writer.publish("group/a", b"1")
    assert numbers(await new.messages(1)) == [1]
    await old.closed()


async def test_retention_asks_the_slowest_member(grouped: Broker) -> None:
    slow, fast = await grouped.durable("slow"), await grouped.durable("fast")
    for client in (slow, fast):
        await client.subscribe("group/#", options=1)
    writer = await grouped.client("writer")
    for n in range(10):
        await writer.publish("group/a", b"%d" % n)
    await fast.messages(10)
    await slow.messages(3)
    await grouped.lose(slow, "slow")
    await fast.ping()
    await grouped.server.api.save_offsets(10.0)
    assert (await offset(grouped, "fast"), await offset(grouped, "slow")) == (10, 3)
    assert await grouped.server.storage.lowest_offset(CHANNEL) == 3


async def test_a_policy_that_comes_and_goes_loses_nothing(url: str) -> None:
    """What was stored stays where it was, and both are read."""
    if url == "memory://":
        pytest.skip("nothing survives there")

    async def begin(broker: Broker) -> Client:
        return await broker.client("writer")

    async with running(url, **read_fanout(url, [])) as broker:
        reader = await broker.durable("reader")
        await reader.subscribe("group/#", options=1)
        await broker.lose(reader, "reader")
        await (await begin(broker)).publish("group/a", b"0")
    async with running(url, **read_fanout(url)) as broker:
        await (await begin(broker)).publish("group/a", b"1")
        assert len(await entries(broker.server.storage, CHANNEL)) == 1
    async with running(url, **read_fanout(url, [])) as broker:
        await (await begin(broker)).publish("group/a", b"2")
        assert len(await entries(broker.server.storage, CHANNEL)) == 1
        reader = await broker.durable("reader")
        assert sorted(numbers(await reader.messages(3))) == [0, 1, 2]
        await reader.quiet()
    async with running(url, **read_fanout(url)) as broker:
        await (await begin(broker)).publish("group/a", b"3")
        reader = await broker.durable("reader")
        assert numbers(await reader.messages(1)) == [3]
        await reader.quiet()


async def test_the_readers_of_a_channel_take_part_in_its_conversations(tmp_path: Path) -> None:
    settings = read_fanout(f"sqlite:///{tmp_path}/t.db")
    settings["plugins"] |= {"requests": {}}
    async with running(f"sqlite:///{tmp_path}/t.db", **settings) as broker:
        reader = await broker.durable("reader")
        await reader.subscribe("group/a", options=1)
        writer = await broker.client("writer")
        await writer.publish("group/a", b"0")
        assert await broker.server.storage.takes_part("c/reader", "group/a")
        late = await broker.durable("late")
        await late.subscribe("group/+", options=1)
        await writer.publish("group/a", b"1")
        storage = broker.server.storage
        assert await storage.takes_part("c/late", "group/a")
        assert not await storage.takes_part(CHANNEL, "group/a")


async def test_a_backlog_in_pages_comes_whole_and_in_order(url: str) -> None:
    limits = {"page_entries": 16, "recent_entries": 8}
    async with running(url, limits=limits, mqtt={"inflight_window": 5}, **read_fanout(url)) as broker:
        reader = await broker.durable("reader")
        await reader.subscribe("group/#", "own", options=1)
        await broker.lose(reader, "reader")
        writer = await broker.client("writer")
        writer.send(*(Publish("group/a", b"%d" % n, 1, packet_id=n + 1) for n in range(300)))
        await writer.publish("own", b"0")
        reader = await broker.durable("reader")
        writer.send(*(Publish("group/a", b"%d" % n, 1, packet_id=n + 1) for n in range(300, 400)))
        found = await reader.messages(401)
        assert numbers([m for m in found if m.topic == "group/a"]) == list(range(400))
        await reader.quiet()
