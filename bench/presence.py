"""What presence costs: users who come and go, until a subscriber was told of each; and being told of all on subscribing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable

from bench import process, wire
from bench.bystander import Bystander
from bench.peers.tideline import Tideline
from bench.rounds import say
from bench.table import columns
from bench.wire_async import Counted, connected, packet

_WAVE = 2000
"""Users who are connected at once: a generator has only so many sockets."""
_SINGLE = 300
"""Users who come one after the other, when the others are known."""
_PATIENCE = 120.0


class Present(Tideline):
    """Tideline that tells who is online."""

    name = "presence"

    def more_plugins(self) -> str:
        """Who goes is told at once."""
        return "  presence: {grace: 0}\n"


async def _come_and_go(port: int, users: int) -> float:
    """Seconds until a subscriber was told that each user came, and that each went."""
    reader, watcher = await connected(port, "watcher")
    watcher.write(wire.subscribe(1, "$presence/c/+", qos=0))
    await packet(reader)
    told = Counted(reader, b"c/user-")
    began = time.monotonic()
    for first in range(0, users, _WAVE):
        if first and not first % 20_000:
            say(f"  {first:,}")
        wave = range(first, min(users, first + _WAVE))
        _, clients = await asyncio.gather(
            _in_time(told.wait(len(wave))), asyncio.gather(*(connected(port, f"user-{number}") for number in wave))
        )
        for _, writer in clients:
            writer.close()
        await _in_time(told.wait(len(wave)))
    watcher.close()
    return time.monotonic() - began


async def _in_time(waiting: Awaitable[None]) -> None:
    async with asyncio.timeout(_PATIENCE):
        await waiting


async def _one_by_one(port: int) -> list[float]:
    """Milliseconds from a user's CONNECT until a subscriber was told of it."""
    reader, watcher = await connected(port, "watcher")
    for number in range(_SINGLE):
        watcher.write(wire.subscribe(1, f"$presence/c/single-{number}", qos=0))
        await packet(reader)
    told, took = Counted(reader, b""), []
    for number in range(_SINGLE):
        told.mark = b'"user":"c/single-%d","online":true' % number
        began = time.perf_counter()
        _, writer = await connected(port, f"single-{number}")
        await _in_time(told.wait(1))
        took.append((time.perf_counter() - began) * 1000)
        writer.close()
    watcher.close()
    return took


async def _all_at_once(port: int, users: int) -> float:
    """Seconds from a SUBSCRIBE until it has brought what is known of every user."""
    reader, watcher = await connected(port, "late")
    began = time.monotonic()
    watcher.write(wire.subscribe(1, "$presence/c/+", qos=0))
    await _in_time(Counted(reader, b"c/user-").wait(users))
    watcher.close()
    return time.monotonic() - began


def report(users: int) -> str:
    """The figures of one run."""
    broker = Present()
    say(f"{users:,} users come and go")
    try:
        broker.start()
        used, idle = process.cpu_seconds(broker.pid), process.resident(broker.pid)
        with Bystander(broker.port) as bystander:
            seconds = asyncio.run(_come_and_go(broker.port, users))
            others = statistics.quantiles(bystander.waits(), n=100)[98]
        each = (process.cpu_seconds(broker.pid) - used) / users * 1e6
        single = statistics.quantiles(asyncio.run(_one_by_one(broker.port)), n=100)
        subscribing = asyncio.run(_all_at_once(broker.port, users))
        grown = (process.resident(broker.pid) - idle) / (1 << 20)
    finally:
        broker.stop()
    heads = ["changes told a second", "us of CPU each user", "others' PUBACK p99 ms"]
    heads += ["one who comes told p50 ms", "p99", "s to be told of all", "MiB more"]
    figures = [f"{2 * users / seconds:,.0f}", f"{each:.0f}", f"{others:.0f}"]
    figures += [f"{single[49]:.1f}", f"{single[98]:.1f}", f"{subscribing:.1f}", f"{grown:.0f}"]
    rows = [["users who came and went", *heads], [f"{users:,}, {_WAVE:,} at once", *figures]]
    return f"Tideline: presence\n\n{columns(rows)}"
