"""What a change of membership costs in a channel of very many members: one is added, gets a message, and is removed."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from bench import api, process, wire
from bench.filled import Kept
from bench.rounds import say
from bench.table import columns
from bench.wire_async import packet

_TOPIC, _FILTER = "conv/channel/everybody", "conv/channel/#"
_TIMES = 100
_WARM = 5
_PATIENCE = 60.0


class Cost(NamedTuple):
    """Milliseconds of each addition, of each message until the new member has it, and of each removal; of the broker's
    processor for one round of the three; MiB that the broker grew by. ``start``: seconds until the broker listened."""

    members: int
    start: float
    added: list[float]
    told: list[float]
    removed: list[float]
    cpu: float
    grown: float


class _Channel(Kept):
    """Tideline with a channel and the HTTP API."""

    start_timeout = _PATIENCE

    def environment(self) -> dict[str, str]:
        """One inbox for all that read the channel."""
        policies = f'[{{"filter": "{_FILTER}", "fanout": "read"}}]'
        return super().environment() | {"TIDELINE__PERSISTENCE__POLICIES": policies}

    def more_plugins(self) -> str:
        return f"  conversations: {{}}\n{api.plugin(self.home)}"


def measure(counts: tuple[int, ...]) -> list[Cost]:
    """One broker for each number of members. Each of them has a device that follows the channel, and is away."""
    found = []
    for count in counts:
        broker = _Channel()
        try:
            say(f"filling a database with a channel of {count:,} members")
            command = [sys.executable, "-m", "bench.prefill_conversations", broker.storage_url, f"--members={count}"]
            subprocess.run([*command, f"--topic={_TOPIC}", f"--filter={_FILTER}"], check=True, stdout=sys.stderr)
            began = time.monotonic()
            broker.start()
            started = time.monotonic() - began
            say(f"{_TIMES} members more, and less")
            found.append(asyncio.run(_cost(broker, count, started)))
        finally:
            broker.stop()
            broker.discard()
    return found


async def _cost(broker: Kept, count: int, started: float) -> Cost:
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(wire.connect("newcomer", clean=False))
    await reader.readexactly(4)
    member = f"/conversations/{_TOPIC}/members/c/newcomer"
    async with api.Api(broker.home) as operator:

        async def timed(method: str, path: str, body: object = None, number: int = -1) -> float:
            began = time.perf_counter()
            await operator.ask(method, path, body)
            if number >= 0:
                async with asyncio.timeout(_PATIENCE):
                    given = await packet(reader)
                if not given.endswith(b"number %d" % number):
                    raise RuntimeError(f"the new member was given another message: {given!r}")
            return (time.perf_counter() - began) * 1000

        async def around(number: int) -> tuple[float, float, float]:
            added = await timed("PUT", member, {})
            told = await timed("POST", f"/conversations/{_TOPIC}/messages", {"payload": f"number {number}", "qos": 0}, number)
            return added, told, await timed("DELETE", member)

        for number in range(_WARM):
            await around(number)
        memory, used = process.resident(broker.pid), process.cpu_seconds(broker.pid)
        rounds = [await around(number) for number in range(_WARM, _WARM + _TIMES)]
        cpu = (process.cpu_seconds(broker.pid) - used) / _TIMES * 1000
        grown = (process.resident(broker.pid) - memory) / (1 << 20)
    writer.close()
    added, told, removed = ([one[place] for one in rounds] for place in range(3))
    return Cost(count, started, added, told, removed, cpu, grown)


def table(found: list[Cost]) -> str:
    """The figures."""
    rows = [["members", "s to start", "added p50 ms", "p99", "told p50", "p99", "removed p50", "p99", "ms of CPU", "MiB more"]]
    for one in found:
        line = [f"{one.members:,}", f"{one.start:.1f}"]
        for times in (one.added, one.told, one.removed):
            line += [f"{statistics.median(times):.1f}", f"{sorted(times)[len(times) * 99 // 100]:.1f}"]
        rows.append([*line, f"{one.cpu:.1f}", f"{one.grown:.0f}"])
    title = "Tideline: a member is added to a channel, is told something, and is removed"
    return f"{title} (one device; those of the others are away)\n\n{columns(rows)}"
