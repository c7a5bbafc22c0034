"""Stock clients on three nodes: each message once, and in the order of its publisher, to durable and to clean sessions."""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

from broker.delivery import ArrivalLog
from broker.packets import ReasonCode
from broker.packets.model import Disconnect
from tests.support.cluster import Node, cluster
from tests.support.paho_client import PahoClient
from tests.support.wire import Client

COUNT = 60


def client(node: Node, name: str, *, clean: bool = True) -> aiomqtt.Client:
    host, port = node.address
    return aiomqtt.Client(host, port, identifier=name, clean_session=clean, max_inflight_messages=20)


async def publish(node: Node, name: str) -> None:
    async with client(node, name) as publisher:
        await asyncio.gather(*(publisher.publish(f"news/{name}", b"%d" % n, qos=n % 3) for n in range(COUNT)))


async def receive(node: Node, name: str, total: int, *, clean: bool, ready: asyncio.Event) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    async with client(node, name, clean=clean) as subscriber:
        await subscriber.subscribe("news/#", qos=2)
        ready.set()
        async for message in subscriber.messages:
            assert isinstance(message.payload, bytes)
            found.setdefault(message.topic.value, []).append(int(message.payload))
            total -= 1
            if not total:
                return found
    raise AssertionError("the broker closed")


async def test_three_nodes_lose_double_and_reorder_nothing() -> None:
    async with cluster(3) as made, asyncio.timeout(60):
        publishers = [(node, f"publisher-{index}") for index, node in enumerate(made.nodes)]
        receivers = []
        for index, node in enumerate(made.nodes):
            for clean in (True, False):
                ready = asyncio.Event()
                work = receive(node, f"{'clean' if clean else 'durable'}-{index}", COUNT * 3, clean=clean, ready=ready)
                receivers.append(asyncio.create_task(work))
                await ready.wait()
        await asyncio.gather(*(publish(node, name) for node, name in publishers))
        # paho gives its messages numbers of their own; what it sends with one QoS stays in order
        for found in await asyncio.gather(*receivers):
            assert found.keys() == {f"news/{name}" for _, name in publishers}
            for numbers in found.values():
                assert sorted(numbers) == list(range(COUNT))
                for qos in range(3):
                    assert [n for n in numbers if n % 3 == qos] == list(range(qos, COUNT, 3))


async def test_paho_continues_its_session_on_another_node() -> None:
    """It gets what came in the meantime through a third one."""
    async with cluster(3) as made:
        one, other, third = made.nodes
        phone = PahoClient("phone", clean_session=False)
        assert await asyncio.to_thread(phone.connect, one.address) == "Success"
        assert await asyncio.to_thread(phone.subscribe, "news", 1)
        await asyncio.to_thread(phone.close)
        publisher = await third.client("publisher")
        for number in range(3):
            await publisher.publish("news", b"%d" % number)
        phone = PahoClient("phone", clean_session=False)
        await asyncio.to_thread(phone.connect, other.address)
        assert phone.present
        assert [await asyncio.to_thread(phone.receive) for _ in range(3)] == [("news", b"%d" % n) for n in range(3)]
        await asyncio.to_thread(phone.close)


# --- clean sessions that are slow ------------------------------------------------------------------------------------

BIG = bytes(900_000)
BEHIND = 30


async def a_slow_one(node: Node, qos: int) -> Client:
    """A clean session whose client reads nothing for now."""
    slow = await node.socket(5, receive_buffer=4096)
    assert (await slow.connect("slow")).reason == 0
    await slow.subscribe("news", options=qos)
    slow.pause()
    return slow


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_slow_clean_session_reads_what_both_nodes_published(qos: int) -> None:
    """From the store, by its node's log of arrivals."""
    async with cluster(2, limits={"recent_entries": 2, "page_entries": 3}) as made:
        one, other = made.nodes
        slow = await a_slow_one(other, qos)
        here, there = await other.client("here"), await one.client("there")
        for number in range(BEHIND):
            await (here if number % 2 else there).publish("news", b"%d " % number + BIG)
        session = other.server.sessions.named("slow")[0]
        assert session.reader is not None
        assert not session.reader.live
        slow.resume()
        assert [int(message.payload.split()[0]) for message in await slow.messages(BEHIND)] == list(range(BEHIND))
        await slow.quiet()


@pytest.mark.parametrize("qos", [0, 1])
async def test_one_that_falls_behind_the_log_loses_qos_0_or_its_connection(qos: int) -> None:
    async with cluster(2, limits={"recent_entries": 2, "page_entries": 3}) as made:
        one, other = made.nodes
        other.server.delivery.log = ArrivalLog(kept=3)
        slow = await a_slow_one(other, qos)
        there = await one.client("there")
        for number in range(BEHIND):
            await there.publish("news", b"%d " % number + BIG)
        slow.resume()
        counters = other.server.counters
        if qos:
            packets = await slow.closed()
            assert isinstance(packets[-1], Disconnect)
            assert packets[-1].reason == ReasonCode.QUOTA_EXCEEDED
            assert counters.slow_disconnects == 1
            return
        got = [int((await slow.message()).payload.split()[0])]
        while got[-1] != BEHIND - 1:
            got.append(int((await slow.message()).payload.split()[0]))
        assert got == sorted(set(got))
        assert 0 < counters.publish_dropped == BEHIND - len(got)


def test_the_log_lets_the_oldest_go() -> None:
    log = ArrivalLog(kept=3)
    assert (log.last, log.after(0, 10)) == (0, [])
    assert [log.append(100 + n) for n in range(1, 8)] == list(range(1, 8))
    assert (log.first, log.last) == (4, 7)
    assert log.after(0, 2) == [(4, 104), (5, 105)]
    assert log.after(5, 10) == [(6, 106), (7, 107)]
    assert log.after(7, 10) == []
