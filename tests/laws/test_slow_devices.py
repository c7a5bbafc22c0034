"""Law 5: a device that is frozen or slow costs the others nothing, and the broker no memory that grows with its backlog."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from broker.packets.model import Publish
from tests.support.laws_process import PATIENCE, ROOT, BrokerProcess, broker_process
from tests.support.laws_wire import Collector, dropping, enter
from tests.support.until import until
from tests.support.wire import Client

OTHERS = 1000
"""Devices that keep up, of fifty users."""
ROUNDS = 15
BULK = 2500
SIZE = 4000
FROZEN_GROWTH = 40 << 20
"""Bytes that the broker may grow by while two devices don't take 10 MB each."""

SUBSCRIBER = """
import sys
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "frozen-stock", clean_session=False)
client.username_pw_set("frozen", "frozen")
client.on_connect = lambda *_: client.subscribe([("bulk", 1), ("all/#", 1)])
client.on_subscribe = lambda *_: print("subscribed", flush=True)
client.on_message = lambda _, __, message: print(message.payload.decode().rstrip(), flush=True)
client.connect("127.0.0.1", int(sys.argv[1]), keepalive=0)
client.loop_forever()
"""


@contextmanager
def stock_subscriber(broker: BrokerProcess) -> Iterator[subprocess.Popen[str]]:
    """paho-mqtt in a process that can be frozen; it prints what it gets."""
    command = [sys.executable, "-c", SUBSCRIBER, str(broker.port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == "subscribed\n"
            yield process
        finally:
            process.kill()
            process.wait()


@asynccontextmanager
async def crowd(broker: BrokerProcess) -> AsyncIterator[list[Collector]]:
    """Devices that all hear ``all/#``, and each a topic of its own."""
    clients: list[Client] = []
    async with contextlib.AsyncExitStack() as stack:
        for start in range(0, OTHERS, 50):
            some = [enter(broker, f"user-{n % 50}", f"other-{n}") for n in range(start, start + 50)]
            clients += await asyncio.gather(*some)
        await stack.enter_async_context(dropping(*clients))
        await asyncio.gather(*(client.subscribe("all/#", f"own/{n}", options=1) for n, client in enumerate(clients)))
        yield [Collector(client) for client in clients]


async def nobody_notices(broker: BrokerProcess, frozen: subprocess.Popen[str]) -> None:
    publisher = await enter(broker, "pub", "publisher", clean=True)
    deaf = await enter(broker, "deaf", "frozen-raw")
    await deaf.subscribe("bulk", "all/#", options=0)  # QoS 0 has no window: only its socket holds it back
    async with dropping(publisher, deaf), crowd(broker) as others:
        before = broker.rss
        deaf.pause()
        frozen.send_signal(signal.SIGSTOP)
        numbers = iter(range(1_000_000))
        for number in range(BULK):
            await publisher.publish("bulk", f"bulk:{number}".encode().ljust(SIZE), 1 if number % 50 == 0 else 0)
            if number % (BULK // ROUNDS) == 0:
                await publisher.publish("all/x", f"all:{next(numbers)}".encode())
        sent = next(numbers)
        for n in range(OTHERS):
            await publisher.publish(f"own/{n}", b"yours", 1 if n % 20 == 0 else 0)
        await publisher.ping()
        for other in others:
            await other.wait(sent + 1)
        for n, other in enumerate(others):
            assert other.got == [*(f"all:{number}" for number in range(sent)), "yours"], n
            await other.end()
        assert broker.rss - before < FROZEN_GROWTH, f"the broker grew by {broker.rss - before >> 20} MiB"
        await thawed(frozen, sent)
        await deaf_hears(deaf, sent)


async def thawed(frozen: subprocess.Popen[str], sent: int) -> None:
    """The stock client, once it goes on, gets all that it missed, in order."""
    assert frozen.stdout is not None
    frozen.send_signal(signal.SIGCONT)
    lines: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while len(lines) < BULK + sent:
                lines.append(await asyncio.to_thread(frozen.stdout.readline))
    except TimeoutError:
        frozen.kill()  # which ends the thread that reads
        raise AssertionError(f"{len(lines)} messages of {BULK + sent}, the last {lines[-1:]}") from None
    got = [line.rstrip("\n") for line in lines]
    assert [line for line in got if line.startswith("bulk")] == [f"bulk:{number}" for number in range(BULK)]
    assert [line for line in got if line.startswith("all")] == [f"all:{number}" for number in range(sent)]


async def deaf_hears(deaf: Client, sent: int) -> None:
    deaf.resume()
    collector = Collector(deaf)
    await collector.wait(BULK + sent)
    assert [line for line in collector.got if line.startswith("bulk")] == [f"bulk:{number}" for number in range(BULK)]
    await collector.end()


def test_a_frozen_device_is_no_matter_of_a_thousand_others(tmp_path: Path) -> None:
    with broker_process(tmp_path, f"sqlite:///{tmp_path}/laws.db") as broker, stock_subscriber(broker) as frozen:
        asyncio.run(nobody_notices(broker, frozen))
        broker.stop()


# --- without an inbox ------------------------------------------------------------------------------------------------

BACKLOG = 20_000
SLOW_GROWTH = 50 << 20
"""Bytes that the broker may grow by, with 80 MB of backlog; half of it is SQLite's caches."""


async def reads_from_the_store(broker: BrokerProcess) -> None:
    publisher = await enter(broker, "pub", "publisher", clean=True)
    slow = await enter(broker, "slow", "slow-1", clean=True)
    await slow.subscribe("bulk/#", options=1)
    async with dropping(publisher, slow):
        await publisher.publish("bulk/1", b"first")
        await slow.message()
        before = broker.rss
        slow.pause()
        for number in range(BACKLOG):
            payload = f"bulk:{number}".encode().ljust(SIZE)
            if number % 100:
                publisher.send(Publish(f"bulk/{number % 3}", payload, 0, False, False, 0))
            else:
                await publisher.publish(f"bulk/{number % 3}", payload)
                await publisher.drained()
        await publisher.ping()
        grown = broker.rss - before
        assert grown < SLOW_GROWTH, f"the broker grew by {grown >> 20} MiB for {BACKLOG * SIZE >> 20} MiB of backlog"
        slow.resume()
        heard = Collector(slow)
        await heard.wait(BACKLOG)
        await publisher.publish("bulk/1", b"last")
        await until(lambda: heard.got[-1] == "last", lambda: f"the last message after {heard.got[-1]}")
        assert heard.got == [*(f"bulk:{number}" for number in range(BACKLOG)), "last"]
        await heard.end()


def test_a_slow_device_without_an_inbox_reads_from_the_store(tmp_path: Path) -> None:
    limits = {"pending_bytes": 4 << 20}
    with broker_process(tmp_path, f"sqlite:///{tmp_path}/laws.db", limits=limits) as broker:
        asyncio.run(reads_from_the_store(broker))
        broker.stop()
