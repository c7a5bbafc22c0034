"""Keep-alive: one and a half times what was agreed, and not while the broker itself reads nothing (3.1.2.10)."""

from __future__ import annotations

import asyncio

from broker.packets.codes import ReasonCode
from broker.packets.model import Disconnect, PubAck, Publish, Will
from tests.support.broker import Broker, running


async def test_a_silent_client_is_closed_after_one_and_a_half_times(broker: Broker, version: int) -> None:
    """[MQTT-3.1.2-22] of 5, [MQTT-3.1.2-24] of 3.1.1"""
    watcher = await broker.client("watcher")
    await watcher.subscribe("will")
    client = await broker.client("c", version, keep_alive=1, will=Will("will", b"gone"))
    clock = broker.server.clock
    began = clock.now()
    goodbye = await client.closed()
    assert 1.5 <= clock.now() - began <= 3
    codes = [packet.reason for packet in goodbye if isinstance(packet, Disconnect)]
    assert codes == ([ReasonCode.KEEP_ALIVE_TIMEOUT] if version == 5 else [])
    assert (await watcher.message()).payload == b"gone"
    assert broker.server.counters.keep_alive_timeouts == 1


async def test_any_packet_counts(broker: Broker, version: int) -> None:
    """A client that only publishes is heard, while a silent one beside it is closed."""
    client = await broker.client("c", version, keep_alive=1)
    silent = await broker.client("silent", keep_alive=1)
    closing = asyncio.create_task(silent.closed())
    while not closing.done():
        client.send(Publish("t", b"", 0))
        await asyncio.wait([closing], timeout=0.5)
    await client.ping()
    assert broker.server.counters.keep_alive_timeouts == 1


async def test_without_keep_alive_nobody_is_closed(broker: Broker) -> None:
    client, silent = await broker.client("c"), await broker.client("silent", keep_alive=1)
    await silent.closed()
    await client.ping()


async def test_v5_the_server_may_ask_for_less() -> None:
    async with running(mqtt={"max_keep_alive": 1}) as broker:
        client = await broker.client("c", 5, keep_alive=600)
        (goodbye,) = await client.closed()
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason == ReasonCode.KEEP_ALIVE_TIMEOUT


async def test_a_client_that_the_broker_does_not_read_is_not_timed_out(version: int) -> None:
    """Law 6: storage is away, so its socket is paused, and its PINGREQ cannot be heard."""
    async with running(limits={"connection_pending": 3}) as broker:
        publisher = await broker.client("p", version, keep_alive=1)
        silent = await broker.client("silent", keep_alive=1)
        async with broker.held() as commits:
            publisher.send(*(Publish("t", b"", 1, packet_id=n) for n in range(1, 11)))
            await commits.arrived()
            await silent.closed()  # its time is over, and the publisher's would be
        for n in range(1, 11):
            assert (await publisher.expect(PubAck)).packet_id == n
        await publisher.ping()
        assert broker.server.counters.keep_alive_timeouts == 1
