"""A channel's readers on several nodes: each is given what any node publishes, once, wherever it connects next."""

from __future__ import annotations

import asyncio

import pytest

from broker.sessions import member_key
from storage.records import DeviceKey
from tests.support.cluster import cluster
from tests.support.wire import Client

CHANNEL = "r/group/#"
POLICIES = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]


async def numbers(client: Client, count: int) -> list[int]:
    return [int(message.payload) for message in await client.messages(count)]


async def test_readers_on_every_node_are_given_what_one_publishes() -> None:
    async with cluster(3, policies=POLICIES) as made, asyncio.timeout(30):
        readers = []
        for index, node in enumerate(made.nodes):
            for copy in range(3):
                reader = await node.durable(f"reader-{index}-{copy}")
                await reader.subscribe("group/#", options=1)
                readers.append(reader)
        writers = [await node.client(f"writer-{index}") for index, node in enumerate(made.nodes)]
        for n in range(9):
            await writers[n % 3].publish("group/a", b"%d" % n)
        for reader in readers:
            assert await numbers(reader, 9) == list(range(9))
        assert len(await made.nodes[0].storage.read_inbox(CHANNEL, 0, 100)) == 9
        large = b"1" * 10_000
        await writers[0].publish("group/a", large)
        for reader in readers:
            assert (await reader.message()).payload == large


async def test_a_reader_goes_on_through_another_node() -> None:
    async with cluster(2, policies=POLICIES) as made, asyncio.timeout(30):
        one, two = made.nodes
        reader = await one.durable("reader")
        await reader.subscribe("group/#", options=2)
        writer = await two.client("writer")
        await writer.publish("group/a", b"0")
        assert await numbers(reader, 1) == [0]
        await writer.publish("group/a", b"1")
        assert (await reader.message(finish=False)).payload == b"1"
        reader = await two.durable("reader")  # taken over from a node that answers
        assert await numbers(reader, 1) == [1]
        await writer.publish("group/a", b"2")
        assert await numbers(reader, 1) == [2]
        await two.lose(reader, "reader")
        await writer.publish("group/a", b"3")
        reader = await one.durable("reader")
        assert await numbers(reader, 1) == [3]
        await reader.quiet()


async def test_the_node_of_a_reader_is_killed() -> None:
    async with cluster(2, policies=POLICIES, errors=True) as made, asyncio.timeout(60):
        one, two = made.nodes
        reader = await one.durable("reader")
        await reader.subscribe("group/#", options=1)
        writer = await two.client("writer")
        await writer.publish("group/a", b"0")
        assert await numbers(reader, 1) == [0]
        await one.kill()
        await writer.publish("group/a", b"1")
        reader = await two.durable("reader")
        found = await numbers(reader, 1)
        while found[-1] != 1:  # what was acknowledged within the last second may come again
            found += await numbers(reader, 1)
        assert found in ([1], [0, 1])
        await writer.publish("group/a", b"2")
        assert await numbers(reader, 1) == [2]
        device = await two.storage.device(member_key(CHANNEL, DeviceKey("c/reader", "reader")))
        assert device is not None
        assert device.node == two.token


async def test_a_filter_that_goes_and_comes_back_at_once() -> None:
    async with cluster(2, policies=POLICIES) as made, asyncio.timeout(30):
        one, two = made.nodes
        reader = await one.durable("reader")
        writer = await two.client("writer")
        for n in range(5):
            await reader.subscribe("group/#", options=1)
            await writer.publish("group/a", b"%d" % n)
            assert await numbers(reader, 1) == [n]
            await reader.unsubscribe("group/#")
        await writer.publish("group/a", b"9")
        await reader.quiet()
        assert await one.storage.lowest_offset(CHANNEL) is None


@pytest.mark.inside
async def test_a_node_that_starts_later_knows_the_members_by_their_devices() -> None:
    async with cluster(1, policies=POLICIES) as made, asyncio.timeout(30):
        (one,) = made.nodes
        away, here = await one.durable("away"), await one.durable("here")
        for client in (away, here):
            await client.subscribe("group/#", options=1)
        await one.lose(away, "away")
        two = await made.start()
        assert len(two.server.sessions) == 2
        writer = await two.client("writer")
        await writer.publish("group/a", b"0")
        assert await numbers(here, 1) == [0]
        away = await two.durable("away")
        assert await numbers(away, 1) == [0]
        await here.unsubscribe("group/#")
        await writer.publish("group/a", b"1")
        assert await numbers(away, 1) == [1]
        await here.quiet()


async def test_a_reader_without_a_connection_on_any_node() -> None:
    """It reads what is due to a device that another node has, and acknowledges through a node that did not make its claim."""
    async with cluster(2, policies=POLICIES) as made, asyncio.timeout(30):
        one, two = made.nodes
        key = DeviceKey("c/reader", "reader")
        reader = await one.durable("reader")
        await reader.subscribe("group/a", options=1)
        another = await two.durable("another")
        await another.subscribe("group/#", options=1)
        writer = await two.client("writer")
        for n, topic in enumerate(("group/a", "group/b", "group/a")):
            await writer.publish(topic, b"%d" % n)
        assert await numbers(reader, 2) == [0, 2]
        readers = two.server.api.readers
        page = await readers.page(key, 0, 10, 1 << 20, None, "group/#")
        assert [entry.seq for entry in page.entries] == [1, 3]
        await one.lose(reader, "reader")
        await writer.publish("group/a", b"3")
        claim = await one.server.api.readers.claim(key)
        assert await readers.acknowledge(key, claim.epoch, 4, "group/#") == 4
        (place,) = await one.server.api.readers.channels(key)
        assert (place.filter, place.offset, place.head) == ("group/#", 4, 4)
        reader = await two.durable("reader")
        await writer.publish("group/a", b"4")
        assert await numbers(reader, 1) == [4]
        await reader.quiet()
