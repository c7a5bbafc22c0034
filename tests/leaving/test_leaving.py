"""What a client sent before it left counts, over each kind of listener, and a client that left in order has no will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.packets.model import Disconnect, Publish, Subscribe, Will
from tests.leaving.dial import KINDS, Leaver
from tests.support.broker import Broker
from tests.support.certificates import Certificates
from tests.support.until import until
from tests.support.wire import Client

Dial = Callable[[], Leaver]

MANY = 1500  # messages of 300 bytes: several reads, and more than a paused connection takes


@pytest.fixture(params=KINDS)
def dial(request: pytest.FixtureRequest, broker: Broker, certificates: Certificates) -> Dial:
    return lambda: Leaver(broker, certificates, request.param)


@pytest.fixture
async def watcher(broker: Broker) -> Client:
    client = Client(*await asyncio.open_connection(*broker.server.addresses["tcp"]), 5)
    await client.connect("watcher")
    await client.subscribe("left/#")
    return client


def last(payload: bytes = b"") -> Publish:
    return Publish("left/last", payload, 0, False, False, 0, {})


def will() -> Will:
    return Will("left/will", b"gone", 0, False, {})


async def all_gone(broker: Broker) -> None:
    """Only the watcher is left."""
    await until(lambda: len(broker.server.connections) == 1 and broker.server.clients == 1)


async def seen(watcher: Client, count: int) -> list[str]:
    """The topics of so many messages, and of those that nobody wants to see."""
    topics = [message.topic for message in await watcher.messages(count)]
    await watcher.quiet()
    return topics


@pytest.mark.parametrize("broker", [{}, {"tests.leaving.conftest.Knows": {}}], ids=["", "asks"], indirect=True)
async def test_all_in_one_piece_with_the_end_behind_it(broker: Broker, watcher: Client, dial: Dial) -> None:
    def client(number: int) -> None:
        leaver = dial()
        leaver.send(leaver.connect(f"tab-{number}", will()), last(), last(), Disconnect(0, {}), close=True)
        leaver.leave(["closed", "orderly"][number % 2])

    for number in range(20):
        await asyncio.to_thread(client, number)
    assert await seen(watcher, 40) == ["left/last"] * 40
    await all_gone(broker)
    await watcher.quiet()


async def test_behind_a_subscribe_that_is_answered_to_nobody(broker: Broker, watcher: Client, dial: Dial) -> None:
    """The answers reset the connection while packets wait for them in turn."""

    def client(number: int) -> None:
        leaver = dial()
        asks = [Subscribe(n + 1, [(f"some/{n}", 0)], {}) for n in range(5)]
        leaver.send(leaver.connect(f"tab-{number}", will()), *asks, last(), Disconnect(0, {}), close=True)
        leaver.leave("closed")

    for number in range(10):
        await asyncio.to_thread(client, number)
    assert await seen(watcher, 10) == ["left/last"] * 10
    await all_gone(broker)
    await watcher.quiet()


@pytest.mark.parametrize("how", ["closed", "orderly"])
async def test_while_reading_is_paused(broker: Broker, watcher: Client, dial: Dial, how: str) -> None:
    """The end comes while the broker, whose storage is slow, reads nothing."""
    leaver = await asyncio.to_thread(dial)
    await asyncio.to_thread(leaver.begin, "tab", will())

    def leave() -> None:
        leaver.send(*[last(b"x" * 300)] * MANY, Disconnect(0, {}), close=True)
        leaver.leave(how)

    async with broker.held():
        await asyncio.to_thread(leave)
    assert await seen(watcher, MANY) == ["left/last"] * MANY
    await all_gone(broker)
    await watcher.quiet()


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_while_it_is_written_to(broker: Broker, watcher: Client, dial: Dial, how: str) -> None:
    """A subscriber leaves in order while its topic is busy: what it is sent then resets the connection."""
    leaver = await asyncio.to_thread(dial)
    await asyncio.to_thread(leaver.begin, "tab", will(), "busy/#")

    def leave() -> None:
        leaver.send(*[last()] * 50, Disconnect(0, {}), close=True)
        leaver.leave(how)

    async with broker.held() as commits:
        await asyncio.to_thread(leaver.send, *[last()] * 10)
        await commits.arrived()  # and now the broker reads no more from it
        await asyncio.to_thread(leave)
        for _ in range(10):
            await broker.server.api.publish("busy/x", b"x" * 100, durable=False)
            await asyncio.sleep(0)
    assert await seen(watcher, 60) == ["left/last"] * 60
    await all_gone(broker)
    await watcher.quiet()


async def test_without_a_goodbye_the_will_is_sent_behind_what_came_before(broker: Broker, watcher: Client, dial: Dial) -> None:
    leaver = await asyncio.to_thread(dial)
    await asyncio.to_thread(leaver.begin, "tab", will())

    def leave() -> None:
        leaver.send(*[last()] * 50)
        leaver.leave("closed")

    await asyncio.to_thread(leave)
    assert await seen(watcher, 51) == ["left/last"] * 50 + ["left/will"]


async def test_a_moment_before_the_broker_stops(broker: Broker, dial: Dial) -> None:
    leaver = await asyncio.to_thread(dial)
    await asyncio.to_thread(leaver.begin, "tab", will())
    leaver.send(Disconnect(0, {}), close=True)  # on this thread: the broker looks at no socket until it stops
    leaver.leave("closed")
    await broker.server.stop()
    assert broker.server.counters.messages_stored == 0, "its will was published"
