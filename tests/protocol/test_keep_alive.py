"""Keep-alive: one and a half times what was agreed, and not while the broker itself reads nothing (3.1.2.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.clock import Wheel
from broker.connection.connection import PROGRESS
from broker.packets.codes import ReasonCode
from broker.packets.encoder import encode
from broker.packets.model import Disconnect, PingReq, PingResp, PubAck, Publish, Will
from tests.support.broker import Broker, running
from tests.support.until import until


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


# --- a loop that stood still -----------------------------------------------------------------------------------------


class Late:
    """The wheel's event loop, which stands still for as long as a test says, and ticks when it says so."""

    def __init__(self, wheel: Wheel) -> None:
        self._loop = asyncio.get_running_loop()
        self._behind = 0.0
        self._wheel = wheel
        wheel._loop = self  # type: ignore[assignment]

    def stand_still(self, seconds: float) -> None:
        self._behind += seconds

    async def pass_by(self, seconds: float) -> None:
        """Stand still, and be past all that was due meanwhile."""
        self.stand_still(seconds)
        self.tick()
        reached = self._wheel.reached
        await until(lambda: self._wheel.reached > reached)

    def tick(self) -> None:
        handle = self._wheel._handle
        if handle is not None and hasattr(handle, "when"):  # else it is in the middle of a tick
            handle.cancel()
        self._wheel._tick()

    def time(self) -> float:
        return self._loop.time() + self._behind

    def call_at(self, when: float, call: Callable[[], None]) -> asyncio.Handle:
        return self._loop.call_at(when - self._behind, call)

    def call_soon(self, call: Callable[[int], None], current: int) -> asyncio.Handle:
        return self._loop.call_soon(call, current)


@pytest.mark.parametrize("first", ["sockets", "timers"])
async def test_nobody_is_timed_out_for_what_waits_while_the_loop_stands_still(broker: Broker, version: int, first: str) -> None:
    """After it asyncio looks at its sockets before its timers, and uvloop at its timers before its sockets."""
    client = await broker.client("c", version, keep_alive=10)
    silent = await broker.client("silent", version, keep_alive=10)
    clock = broker.server.clock
    noted = clock.latest
    await until(lambda: clock.latest is not noted)  # else it could have come just now, too
    loop = Late(clock)
    loop.stand_still(20)
    client.send_past_the_loop(encode(PingReq(), version))
    if first == "sockets":
        await client.expect(PingResp)
    loop.tick()
    await silent.closed()
    if first == "timers":
        await client.expect(PingResp)
    assert broker.server.counters.keep_alive_timeouts == 1
    loop.stand_still(10)  # it has its whole time again
    loop.tick()
    await client.ping()
    loop.stand_still(16)
    loop.tick()
    await client.closed()
    assert broker.server.counters.keep_alive_timeouts == 2


async def test_a_loop_that_always_stands_still_times_out_the_silent_all_the_same(broker: Broker, version: int) -> None:
    """One round of reading is all that they are given."""
    silent = await broker.client("silent", version, keep_alive=10)
    closing = asyncio.create_task(silent.closed())
    loop = Late(broker.server.clock)
    for _ in range(20):
        loop.stand_still(1)
        loop.tick()
        await asyncio.sleep(0)
        loop.stand_still(1)  # also while it reads
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await closing
    assert broker.server.counters.keep_alive_timeouts == 1


# --- a packet that comes in pieces -----------------------------------------------------------------------------------


async def test_bytes_of_a_packet_that_never_ends_are_not_heard(broker: Broker, version: int) -> None:
    """[MQTT-3.1.2-22]: only a whole packet counts, however many bytes of one trickle in."""
    client = await broker.client("c", version, keep_alive=1)
    clock = broker.server.clock
    began = clock.now()
    client.send_bytes(b"\x30\xff\x7f")  # a PUBLISH of 16,383 bytes
    closing = asyncio.create_task(client.closed())
    while not closing.done():
        client.send_bytes(b"\0")
        await asyncio.wait([closing], timeout=0.2)
    assert clock.now() - began <= 3


async def test_a_large_packet_that_makes_progress_is_heard(broker: Broker, version: int) -> None:
    """It is read for as long as it takes, where each keep alive brings some kilobytes of it."""
    watcher = await broker.client("watcher")
    await watcher.subscribe("t")
    client = await broker.client("c", version, keep_alive=1)
    silent = await broker.client("silent", keep_alive=1)
    closing = asyncio.create_task(silent.closed())
    data = encode(Publish("t", bytes(30 * PROGRESS)), version)
    pieces = [data[at : at + PROGRESS] for at in range(0, len(data), PROGRESS)]
    while len(pieces) > 1 or not closing.done():  # so that it takes longer than the keep alive allows
        if len(pieces) > 1:
            client.send_bytes(pieces.pop(0))
        await asyncio.wait([closing], timeout=0.2)
    client.send_bytes(pieces[0])
    assert len((await watcher.message()).payload) == 30 * PROGRESS
    await client.ping()
    assert broker.server.counters.keep_alive_timeouts == 1


async def test_a_client_that_was_not_read_has_its_whole_time_again(version: int) -> None:
    """Its socket was paused until just before it would have been timed out: its PINGREQ may still stand in the kernel."""
    async with running(limits={"connection_pending": 3}) as broker:
        publisher = await broker.client("p", version, keep_alive=2)
        (connection,) = broker.server.connections
        async with broker.held() as commits:
            publisher.send(*(Publish("t", b"", 1, packet_id=n) for n in range(1, 11)))
            await commits.arrived()
            paused = connection.last_received.time
            await until(lambda: broker.server.clock.now() > paused + 1)
        for n in range(1, 11):
            assert (await publisher.expect(PubAck)).packet_id == n
        assert connection.last_received.time > paused + 1


# --- what is left of a connection ------------------------------------------------------------------------------------


async def test_a_connection_that_ended_leaves_no_deadline(broker: Broker, version: int) -> None:
    """Neither its keep alive, nor the session's end, stays in memory for as long as the client asked for."""
    slots = broker.server.clock._slots
    before = sum(map(len, slots.values()))
    for number in range(30):
        client = await broker.durable("c", version, keep_alive=65535)
        if number % 3 == 0:
            await client.leave()
        elif number % 3 == 1:
            await broker.lose(client, "c")
    await broker.client("c", version)  # ends the session, and has no keep alive itself
    await until(lambda: len(broker.server.connections) == 1)
    await until(lambda: sum(map(len, slots.values())) == before)
