"""Flow control in both directions: nobody makes the broker grow, and nobody slow holds up the others (laws 5 and 6)."""

from __future__ import annotations

import asyncio
import socket

from broker.connection.connection import Connection
from broker.packets.model import Disconnect, PubAck, Publish, Subscribe, Unsubscribe
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

BIG = b"x" * 50_000


def buffered(broker: Broker, client_id: str) -> int:
    """Bytes that wait in the write buffer of the client's socket."""
    (session,) = broker.server.sessions.named(client_id)
    assert isinstance(session.connection, Connection)
    size: int = session.connection._transport.get_write_buffer_size()
    return size


async def flood(sender: Client, topic: str, count: int, qos: int = 1) -> None:
    for number in range(count):
        payload = number.to_bytes(4, "big") + BIG
        sender.send(Publish(topic, payload, qos, packet_id=1 + number % 60000 if qos else 0))
        if qos:
            await sender.expect(PubAck)
    await sender.ping()


def numbers(messages: list[Publish]) -> list[int]:
    return [int.from_bytes(message.payload[:4], "big") for message in messages]


async def test_a_frozen_durable_device_costs_a_bounded_buffer_and_loses_nothing(stored: Broker, version: int) -> None:
    frozen, quick = await stored.durable("frozen", version), await stored.durable("quick", version)
    await frozen.subscribe("t", options=1)
    await quick.subscribe("t", options=1)
    frozen.pause()
    sender = await stored.client("sender")
    reading = asyncio.create_task(quick.messages(300))
    await flood(sender, "t", 300)
    assert numbers(await reading) == list(range(300))
    high_water = stored.server.settings.limits.write_high_water
    assert buffered(stored, "frozen") <= high_water + 2 * 65536 + 2 * len(BIG)
    frozen.resume()
    assert numbers(await frozen.messages(300)) == list(range(300))


async def test_a_frozen_clean_client_reads_from_the_store_when_it_thaws(stored: Broker, version: int) -> None:
    """It has no inbox; what it missed is in the store's tail (law 5)."""
    frozen = await stored.client("frozen", version)
    await frozen.subscribe("t/#", options=0)
    frozen.pause()
    sender = await stored.client("sender")
    for number in range(400):
        sender.send(Publish("t/a" if number % 2 else "other", number.to_bytes(4, "big") + BIG[:20000], 1, packet_id=1))
        await sender.expect(PubAck)
    assert buffered(stored, "frozen") <= stored.server.settings.limits.write_high_water + 2 * 65536 + 2 * len(BIG)
    frozen.resume()
    assert numbers(await frozen.messages(200)) == list(range(1, 400, 2))
    await sender.publish("t/b", b"\0\0\0\0live", 0)
    assert (await frozen.message()).topic == "t/b"


async def test_a_clean_client_whose_window_is_full_goes_on_where_it_stood(stored: Broker, version: int) -> None:
    reader, sender = await stored.client("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    held = []
    for number in range(400):
        await sender.publish("t", number.to_bytes(4, "big"), 1)
        if number < 100:
            held.append(await reader.message(finish=False))
    reader.send(*(PubAck(message.packet_id) for message in held))
    assert numbers(held + await reader.messages(300)) == list(range(400))


async def test_what_is_in_flight_is_sent_again_no_faster_than_it_is_read(stored: Broker, version: int) -> None:
    """A hundred large messages after a reconnect are not written above the high-water mark at once."""
    reader, sender = await stored.durable("reader", version), await stored.client("sender")
    await reader.subscribe("t", options=1)
    await flood(sender, "t", 100)
    for _ in range(100):
        await reader.message(finish=False)
    await stored.lose(reader, "reader")
    reader = await stored.socket(version)
    await reader.connect("reader", clean=False, expiry=3600 if version == 5 else None)
    reader.pause()
    await flood(sender, "elsewhere", 20)
    page = stored.server.settings.limits.page_bytes
    assert buffered(stored, "reader") <= page + 3 * len(BIG) + stored.server.settings.limits.write_high_water
    reader.resume()
    again = await reader.messages(100)
    assert numbers(again) == list(range(100))
    assert all(message.dup for message in again)


async def test_a_client_that_reads_no_answers_is_not_read_either() -> None:
    """A flood of requests whose answers nobody takes stops at the client's own socket, and goes on where it stopped."""
    limits = {"write_high_water": 4096}
    async with running(limits=limits, mqtt={"max_packet_size": 4096}) as broker:
        client, other = await broker.socket(receive_buffer=4096), await broker.client("other")
        await client.connect("c")
        client.pause()
        (session,) = broker.server.sessions.named("c")
        connection = session.connection
        assert isinstance(connection, Connection)
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = 0

        def taken_or_paused() -> bool:
            return bool(connection._paused) or client.unsent == 0

        async with asyncio.timeout(30):
            while not connection._paused:
                client.send_bytes(b"\xc0\x00" * 10_000)
                sent += 10_000
                await until(taken_or_paused)
        assert buffered(broker, "c") < 1 << 20
        await other.ping()
        client.resume()
        # Through such small buffers it takes a while, and a busy machine makes it longer.
        assert await client.receive_bytes(2 * sent, 240) == b"\xd0\x00" * sent
        await until(lambda: not connection._paused)


async def test_publishers_are_read_more_slowly_while_storage_is_away(version: int) -> None:
    """Law 6: bounded memory, no ack; then everything, once, in order."""
    async with running(
        limits={"pending_bytes": 1 << 20, "connection_pending": 100_000}, mqtt={"receive_maximum": 65535}
    ) as broker:
        reader, sender = await broker.durable("reader", version), await broker.client("sender", version)
        await reader.subscribe("t", options=1)
        async with broker.held() as commits:
            count = 400  # 20 MB
            for number in range(count):
                sender.send(Publish("t", number.to_bytes(4, "big") + BIG, 1, packet_id=number + 1))
            await commits.arrived()
            await until(lambda: broker.server.pipeline.full)
            # A chunk that was on its way may still come; after that the socket is left alone.
            assert broker.server.pipeline.pending_bytes < 3 << 20
            assert sender._packets == type(sender._packets)()
        for number in range(count):
            assert (await sender.expect(PubAck)).packet_id == number + 1
        assert numbers(await reader.messages(count)) == list(range(count))


async def test_one_publisher_cannot_fill_the_pipeline_alone(version: int) -> None:
    async with running(limits={"connection_pending": 50}, mqtt={"receive_maximum": 65535}) as broker:
        sender, other = await broker.client("sender", version), await broker.client("other", version)
        async with broker.held() as commits:
            for number in range(200):
                sender.send(Publish("t", BIG, number % 2, packet_id=(number + 1) * (number % 2)))
            await commits.arrived()
            (session,) = broker.server.sessions.named("sender")
            connection = session.connection
            assert isinstance(connection, Connection)
            await until(lambda: connection._paused != 0)
            assert broker.server.pipeline.pending + len(commits.waiting) < 150
            await other.ping()
        for _ in range(100):
            await sender.expect(PubAck)


async def test_a_slow_client_of_messages_that_are_not_stored() -> None:
    """QoS 0 is dropped and counted; QoS 1, which cannot be kept, disconnects; the others notice nothing."""
    policies = {"persistence": {"url": "memory://", "policies": [{"filter": "live/#", "mode": "none"}]}}
    for durable in (False, True):
        async with running(plugins=policies) as broker:
            make = broker.durable if durable else broker.client
            slow, quick = await make("slow", 5), await make("quick", 5)
            for client in (slow, quick):
                await client.subscribe("live/0", options=0)
                await client.subscribe("live/1", options=1)
            slow.pause()
            sender = await broker.client("sender")
            reading = asyncio.create_task(quick.messages(400))
            await flood(sender, "live/0", 400)
            assert numbers(await reading) == list(range(400))
            assert broker.server.counters.publish_dropped > 0
            reading = asyncio.create_task(quick.messages(200))
            await flood(sender, "live/1", 200)
            assert numbers(await reading) == list(range(200))
            slow.resume()
            goodbye = (await slow.closed())[-1]
            assert not isinstance(goodbye, Disconnect) or goodbye.reason == 0x97
            assert broker.server.counters.slow_disconnects == 1


async def test_filters_that_wait_for_storage_count_as_what_they_are(version: int) -> None:
    """Requests with many of them slow their sockets down as publishes do, and come to nothing once they are stored."""
    async with running(limits={"pending_bytes": 1 << 16}) as broker:
        client, publisher = await broker.client("c", version), await broker.client("publisher", version)
        filters = [f"{number}/{'x' * 100}" for number in range(200)]
        for packet in (Subscribe(1, [(name, 0) for name in filters]), Unsubscribe(2, filters)):
            async with broker.held() as commits:
                publisher.send(Publish("t", b"", 1, packet_id=1))
                await commits.arrived()
                client.send(packet)
                await until(lambda: broker.server.pipeline.pending)
                assert broker.server.pipeline.full
            await publisher.expect(PubAck)
            await client.receive()
            assert broker.server.pipeline.pending_bytes == 0
