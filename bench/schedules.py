"""How late scheduled messages are, while as many are scheduled as are published: from when each was due to when it arrives."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

from bench import process, wire
from bench.peers.tideline import Tideline
from bench.rounds import say
from bench.table import columns
from bench.wire_async import connected, packet

RATE = 1000
"""Messages a second, each way."""
AIM = 100.0
"""Milliseconds, of the 99th percentile."""
_DELAY = 3
_TICK = 0.01
_PATIENCE = 30.0


class Scheduling(Tideline):
    """Tideline with scheduled messages."""

    name = "schedules"

    def more_plugins(self) -> str:
        """One user schedules them all."""
        return "  schedules: {max_per_user: 1000000}\n"


async def _run(port: int, seconds: float) -> list[float]:
    """Milliseconds of each message; they carry when they are due, and a number. Each must come, and once."""
    count = round(RATE * seconds)
    reader, subscriber = await connected(port, "reader")
    subscriber.write(wire.subscribe(1, "due", qos=0))
    await packet(reader)
    acks, publisher = await connected(port, "publisher")

    async def publish() -> None:
        began = time.monotonic()
        for place in itertools.count():
            batch = range(place * round(RATE * _TICK), min(count, (place + 1) * round(RATE * _TICK)))
            if not batch:
                return
            await asyncio.sleep(max(0.0, began + place * _TICK - time.monotonic()))
            for number in batch:
                due = time.monotonic_ns() + _DELAY * 1_000_000_000
                payload = due.to_bytes(8) + number.to_bytes(4)
                publisher.write(wire.publish(f"$delayed/{_DELAY}/due", payload, 1 + number % 65_535))
            await publisher.drain()

    async def acknowledged() -> None:
        for _ in range(count):
            await packet(acks)

    late: list[float] = []
    came: set[int] = set()
    publishing = asyncio.gather(publish(), acknowledged())
    async with asyncio.timeout(seconds + _DELAY + _PATIENCE):
        while len(late) < count:
            body = await packet(reader)
            late.append((time.monotonic_ns() - int.from_bytes(body[-12:-4])) / 1e6)
            came.add(int.from_bytes(body[-4:]))
        await publishing
    if len(came) < count:
        raise RuntimeError(f"{count - len(came)} of {count} messages came twice in place of others")
    subscriber.close()
    publisher.close()
    return late


def report(seconds: float) -> str:
    """The figures of one run."""
    broker = Scheduling()
    say(f"scheduling {RATE:,} messages a second for {seconds:g} s")
    try:
        broker.start()
        used = process.cpu_seconds(broker.pid)
        late = asyncio.run(_run(broker.port, seconds))
        each = (process.cpu_seconds(broker.pid) - used) / len(late) * 1e6
    finally:
        broker.stop()
    cut = statistics.quantiles(late, n=100, method="inclusive")
    rows = [["scheduled and published a second", "p50 ms", "p99 ms", "max ms", "us of CPU each", f"p99 under {AIM:g} ms"]]
    reached = "reached" if cut[98] < AIM else "MISSED"
    figures = [f"{figure:.1f}" for figure in (cut[49], cut[98], max(late))]
    rows.append([f"{RATE:,}, {len(late):,} in all", *figures, f"{each:.0f}", reached])
    return f"Tideline: how late scheduled messages arrive, which are due {_DELAY} s after they were sent\n\n{columns(rows)}"
