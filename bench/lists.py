"""What a page of the API's lists costs, as the console asks for one every few seconds: with few sessions, and with many."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any, NamedTuple

from bench import api, process
from bench.bystander import Bystander
from bench.conversations import p99
from bench.filled import Kept
from bench.rounds import say
from bench.table import columns

_PAGE = 50
_TIMES = 30
LISTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clients", {}),
    ("clients", {"connected": "true"}),
    ("clients", {"connected": "false"}),
    ("devices", {}),
    ("subscriptions", {}),
    ("clients/device-0000500", {}),
)
"""The last is no list, but asked for as often."""


class Listing(Kept):
    """Tideline with the API, on data that survives `stop`."""

    name = "lists"
    start_timeout = 120.0

    def more_plugins(self) -> str:
        return api.plugin(self.home)


class Cost(NamedTuple):
    """Of one list with so many sessions: ms of processor time and ms that a page took; and what a PINGREQ waited meanwhile."""

    sessions: int
    asked: str
    cpu: float
    took: float
    pings: float


def measure(counts: tuple[int, ...]) -> list[Cost]:
    """Fill a database for each, and ask."""
    found = []
    for count in counts:
        broker = Listing()
        try:
            say(f"filling a database with {count:,} sessions")
            command = [sys.executable, "-m", "bench.prefill", broker.storage_url, f"--devices={count}"]
            subprocess.run(command, check=True, stdout=sys.stderr)
            broker.start()
            found += asyncio.run(_costs(broker, count))
        finally:
            broker.stop()
            broker.discard()
    return found


async def _costs(broker: Kept, count: int) -> list[Cost]:
    found = []
    async with api.Api(broker.home) as operator:
        with Bystander(broker.port, pings=True) as bystander:
            for path, params in LISTS:
                after: dict[str, str] = {}
                took = []
                bystander.waits()
                used = process.cpu_seconds(broker.pid)
                for _ in range(_TIMES):
                    began = time.perf_counter()
                    page = {} if "/" in path else {"limit": _PAGE}
                    told = await operator.ask("GET", f"/{path}", **page, **params, **after)
                    took.append((time.perf_counter() - began) * 1000)
                    after = {"after": told["next"]} if told.get("next") else {}
                cpu = (process.cpu_seconds(broker.pid) - used) / _TIMES * 1000
                asked = " ".join([path, *(f"{name}={value}" for name, value in params.items())])
                found.append(Cost(count, asked, cpu, sorted(took)[_TIMES // 2], p99(bystander.waits())))
    return found


def table(found: list[Cost]) -> str:
    """The figures."""
    rows = [["sessions", "list", "ms of CPU a page", "p50 ms", "others' PINGRESP p99 ms"]]
    rows += [[f"{one.sessions:,}", one.asked, f"{one.cpu:.1f}", f"{one.took:.1f}", f"{one.pings:.1f}"] for one in found]
    return f"Tideline: a page of {_PAGE} of the API's lists\n\n{columns(rows)}"
