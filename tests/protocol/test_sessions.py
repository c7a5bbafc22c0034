"""Sessions: present or not, what they keep, takeover, and their end (3.1.2.4, 3.1.4, 4.1)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import ConnAck, Connect, Disconnect, PingResp, PubAck, Publish, Will
from broker.packets.properties import Property
from storage.records import DeviceKey
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client, Closed

KEEP: dict[int, dict[str, Any]] = {4: {}, 5: {"expiry": 3600}}


async def present(broker: Broker, client_id: str, version: int, **connect: object) -> bool:
    client = await broker.socket(version)
    return (await client.connect(client_id, **connect)).session_present  # type: ignore[arg-type]


async def test_a_durable_session_is_present_again(stored: Broker, version: int) -> None:
    client = await stored.socket(version)
    assert not (await client.connect("c", clean=False, **KEEP[version])).session_present
    await client.leave()
    assert await present(stored, "c", version, clean=False, **KEEP[version])


async def test_versions_share_a_session(stored: Broker) -> None:
    reader = await stored.durable("c", 4)
    await reader.subscribe("t", options=1)
    await reader.leave()
    sender = await stored.client("sender")
    await sender.publish("t", b"x", 1)
    reader = await stored.socket(5)
    assert (await reader.connect("c", clean=False, expiry=100)).session_present
    assert (await reader.message()).payload == b"x"


async def test_a_clean_start_forgets_everything(stored: Broker, version: int) -> None:
    reader, sender = await stored.durable("c", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await sender.publish("t", b"in flight", 1)
    await reader.message(finish=False)
    await stored.lose(reader, "c")
    await sender.publish("t", b"missed", 1)
    assert not await present(stored, "c", version, clean=True, **KEEP[version])
    reader = await stored.durable("c", version)
    await sender.publish("t", b"not subscribed any more", 1)
    await reader.quiet()


async def test_a_clean_session_leaves_nothing(stored: Broker, version: int) -> None:
    client = await stored.client("c", version)
    await client.subscribe("t", options=1)
    await client.leave()
    assert not await present(stored, "c", version, clean=False, **KEEP[version])
    assert len(stored.server.sessions) == 1


async def test_a_durable_session_that_comes_back_clean_leaves_nothing(stored: Broker, version: int) -> None:
    client = await stored.durable("c", version)
    await client.subscribe("t")
    await client.leave()
    client = await stored.client("c", version)
    await client.leave()
    assert not await present(stored, "c", version, clean=False, **KEEP[version])


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_takeover_closes_the_old_connection(stored: Broker, version: int, durable: bool) -> None:
    """[MQTT-3.1.4-3] of 5, [MQTT-3.1.4-2] of 3.1.1"""
    make = stored.durable if durable else stored.client
    old = await make("c", version)
    await old.subscribe("t", options=1)
    new = await stored.socket(version)
    ack = await new.connect("c", clean=not durable, **(KEEP[version] if durable else {}))
    assert ack.session_present is durable
    goodbye = [packet for packet in await old.closed() if isinstance(packet, Disconnect)]
    assert [packet.reason for packet in goodbye] == ([ReasonCode.SESSION_TAKEN_OVER] if version == 5 else [])
    await new.ping()
    sender = await stored.client("sender")
    await sender.publish("t", b"x", 1)
    if durable:
        assert (await new.message()).payload == b"x"
    else:
        await new.quiet()
    assert stored.server.counters.takeovers == 1


async def test_takeover_moves_what_is_in_flight(stored: Broker, version: int) -> None:
    old, sender = await stored.durable("c", version), await stored.client("sender")
    await old.subscribe("t", options=1)
    await sender.publish("t", b"x", 1)
    before = await old.message(finish=False)
    new = await stored.durable("c", version)
    after = await new.message(finish=False)
    assert (after.packet_id, after.dup) == (before.packet_id, True)
    old.send(PubAck(before.packet_id))  # too late: it is the new connection's now
    await old.closed()
    await stored.lose(new, "c")
    last = await stored.durable("c", version)
    assert (await last.message()).dup


async def test_takeover_sends_the_will_of_the_old(stored: Broker, version: int) -> None:
    watcher = await stored.client("watcher")
    await watcher.subscribe("will")
    await stored.client("c", version, will=Will("will", b"gone"))
    await stored.client("c", version)
    assert (await watcher.message()).payload == b"gone"


async def test_what_is_published_before_the_connack_of_a_takeover_keeps_its_order(stored: Broker, version: int) -> None:
    """Some of it in one piece with CONNECT, some while that waits for storage, behind what the old connection had published."""
    old = await stored.durable("phone", version)
    async with stored.held() as commits:
        old.send(*(Publish("t", b"%d" % number, 1, packet_id=number + 1) for number in range(10)))
        await old.drained()
        await until(lambda: stored.server.counters.messages_received >= 11, "all has come")
        new = await stored.socket(version)
        again = [Publish("t", b"%d" % number, 1, packet_id=number + 1) for number in range(10, 30)]
        properties = {17: 3600} if version == 5 else {}
        new.send(Connect("phone", version, clean_start=False, properties=properties), *again[:10])
        assert await old.closed() is not None
        await commits.arrived()
        new.send(*again[10:])
        commits.let(1000)
        await new.expect(ConnAck)
        for publish in again:
            assert (await new.expect(PubAck)).packet_id == publish.packet_id
    messages = await stored.server.storage.read_conversation("t")
    assert [message.payload for message in messages] == [b"%d" % number for number in range(30)]


async def test_a_storm_of_takeovers_leaves_one_connection(stored: Broker, version: int) -> None:
    clients = [await stored.socket(version) for _ in range(20)]
    for client in clients:
        client.send(Connect("c", version, clean_start=False, properties={17: 3600} if version == 5 else {}))
    alive = []
    for client in clients:
        # Whichever was served last is alive; all others are closed.
        client.send_bytes(b"\xc0\x00")
    for client in clients:
        packets = await until_pong_or_closed(client)
        if packets:
            alive.append(client)
    assert len([session for session in stored.server.sessions if session.connection]) == 1
    assert stored.server.clients == 1


async def until_pong_or_closed(client: Client) -> bool:
    try:
        while not isinstance(await client.receive(), PingResp):
            pass
    except Closed:
        return False
    return True


async def test_v5_a_session_ends_when_its_expiry_has_passed(stored: Broker) -> None:
    client = await stored.durable("c", 5, expiry=1)
    await client.subscribe("t")
    await client.leave()
    assert len(stored.server.sessions) == 1
    await gone(stored, "c")
    assert not await present(stored, "c", 5, clean=False, expiry=1)
    assert stored.server.trie.count == 0


@pytest.mark.inside
async def test_v5_a_session_whose_time_is_over_is_not_continued_before_the_clock_ends_it(stored: Broker) -> None:
    """After a crash, or a night that the machine slept, its device may be back first. Nor does it take its will along."""
    watcher = await stored.client("watcher")
    await watcher.subscribe("will")
    await stored.lose(await stored.durable("over", 5, expiry=60), "over")
    will = Will("will", b"gone", properties={Property.WILL_DELAY: 60})
    await stored.lose(await stored.durable("dies", 5, expiry=3600, will=will), "dies")
    stored.server.time.not_before(stored.server.time.now() + 61_000)
    assert not await present(stored, "over", 5, clean=False, expiry=60)
    assert await present(stored, "dies", 5, clean=False, expiry=3600)
    assert (await watcher.message()).payload == b"gone"


async def test_v5_a_session_that_comes_back_in_time_does_not_end(broker: Broker) -> None:
    client = await broker.durable("c", 5, expiry=1)
    await client.leave()
    client = await broker.durable("c", 5, expiry=1)
    other = await broker.durable("other", 5, expiry=1)
    await other.leave()
    await gone(broker, "other")  # which began to wait later
    await client.ping()
    assert await present(broker, "c", 5, clean=False, expiry=1)


async def test_v5_the_time_of_a_session_stops_while_its_client_is_here(stored: Broker) -> None:
    client, key = await stored.durable("c", 5), DeviceKey("c/c", "c")
    await stored.lose(client, "c")
    (away,) = await stored.server.api.device_states(key.user, key, 10)
    await stored.durable("c", 5)
    (here,) = await stored.server.api.device_states(key.user, key, 10)
    assert (away.expires_at > 0, here.expires_at) == (True, 0)


async def test_v5_expiry_zero_ends_with_the_connection(broker: Broker) -> None:
    client = await broker.client("c", 5, clean=False)
    await client.leave()
    assert not await present(broker, "c", 5, clean=False)


async def test_v5_expiry_may_change_at_disconnect(stored: Broker) -> None:
    client = await stored.durable("c", 5, expiry=3600)
    await client.leave(properties={Property.SESSION_EXPIRY: 0})
    assert not await present(stored, "c", 5, clean=False, expiry=3600)


async def test_v5_expiry_zero_may_not_become_more_at_disconnect(broker: Broker) -> None:
    """3.14.2.2.2"""
    client = await broker.client("c", 5)
    client.send(Disconnect(properties={Property.SESSION_EXPIRY: 10}))
    (answer,) = await client.closed()
    assert isinstance(answer, Disconnect)
    assert answer.reason == ReasonCode.PROTOCOL_ERROR
    assert not await present(broker, "c", 5, clean=False)


async def test_v5_expiry_is_capped() -> None:
    async with running(mqtt={"max_session_expiry": 1}) as broker:
        client = await broker.durable("c", 5, expiry=0xFFFFFFFF)
        await client.leave()
        old = await broker.durable("d", 4)
        await old.leave()
        await gone(broker, "c")
        await gone(broker, "d")


async def test_v5_expiry_is_capped_at_disconnect_too() -> None:
    async with running(mqtt={"max_session_expiry": 1}) as broker:
        client = await broker.durable("c", 5, expiry=1)
        await client.leave(properties={Property.SESSION_EXPIRY: 0xFFFFFFFF})
        await gone(broker, "c")


async def gone(broker: Broker, client_id: str) -> None:
    """Wait until the broker's clock has ended the session, and storage has none."""
    sessions, storage = broker.server.sessions, broker.server.storage

    async def ended() -> bool:
        return not sessions.named(client_id) and await storage.device(DeviceKey(f"c/{client_id}", client_id)) is None

    await until(ended)
