"""What presence costs: users who come and go, until a subscriber was told of each; and being told of all on subscribing."""

from __future__ import annotations

import asyncio
import time

from bench import process, wire
from bench.peers.tideline import Tideline
from bench.rounds import say
from bench.table import columns
from bench.wire_async import connected, packet

_WAVE = 2000
"""Users who are connected at once: a generator has only so many sockets."""
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
    await packet(reader)  # of itself
    began = time.monotonic()
    for first in range(0, users, _WAVE):
        wave = range(first, min(users, first + _WAVE))
        clients = await asyncio.gather(*(connected(port, f"user-{number}") for number in wave))
        await _told(reader, len(wave))
        for _, writer in clients:
            writer.close()
        await _told(reader, len(wave))
    watcher.close()
    return time.monotonic() - began


async def _told(reader: asyncio.StreamReader, count: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        for _ in range(count):
            await packet(reader)


async def _all_at_once(port: int, users: int) -> float:
    """Seconds from a SUBSCRIBE until it has brought what is known of every user."""
    reader, watcher = await connected(port, "late")
    began = time.monotonic()
    watcher.write(wire.subscribe(1, "$presence/c/+", qos=0))
    await _told(reader, 1 + users)
    watcher.close()
    return time.monotonic() - began


def report(users: int) -> str:
    """The figures of one run."""
    broker = Present()
    say(f"{users:,} users come and go")
    try:
        broker.start()
        used, idle = process.cpu_seconds(broker.pid), process.resident(broker.pid)
        seconds = asyncio.run(_come_and_go(broker.port, users))
        each = (process.cpu_seconds(broker.pid) - used) / users * 1e6
        subscribing = asyncio.run(_all_at_once(broker.port, users))
        grown = (process.resident(broker.pid) - idle) / (1 << 20)
    finally:
        broker.stop()
    rows = [["users who came and went", "changes told a second", "us of CPU each user", "s to be told of all", "MiB more"]]
    figures = [f"{2 * users / seconds:,.0f}", f"{each:.0f}", f"{subscribing:.1f}", f"{grown:.0f}"]
    rows.append([f"{users:,}, {_WAVE:,} at once", *figures])
    return f"Tideline: presence\n\n{columns(rows)}"
