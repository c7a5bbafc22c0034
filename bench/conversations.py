"""What it costs to list a user's conversations, by last activity: the first page of many, and the next one."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from bench import api, process
from bench.bystander import Bystander
from bench.filled import Kept
from bench.rounds import say
from bench.table import columns

_USER = "u/reader"
_PAGE = 50
_TIMES = 40
_WARM = 3


class Cost(NamedTuple):
    """Of one page, unless it says otherwise. Milliseconds, and MiB. ``others`` is the 99th percentile of the PUBACKs of
    somebody else meanwhile, ``idle`` the same before."""

    conversations: int
    first: list[float]
    following: list[float]
    cpu: float
    idle: float
    others: float
    grown: float


class _Listing(Kept):
    """Tideline with conversations and the HTTP API."""

    start_timeout = 60.0

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def environment(self) -> dict[str, str]:
        """A device has a filter for each conversation."""
        return super().environment() | {"TIDELINE__MQTT__MAX_SUBSCRIPTIONS": str(2 * self._most)}

    def more_plugins(self) -> str:
        return f"  conversations: {{max_conversations: {self._most}}}\n{api.plugin(self.home)}"


def measure(counts: tuple[int, ...]) -> list[Cost]:
    """One broker for each number of conversations."""
    found = []
    for count in counts:
        broker = _Listing(count)
        try:
            say(f"filling a database with {count:,} conversations")
            command = [sys.executable, "-m", "bench.prefill_conversations", broker.storage_url]
            subprocess.run([*command, f"--conversations={count}", f"--user={_USER}"], check=True, stdout=sys.stderr)
            broker.start()
            say(f"listing {count:,} conversations")
            found.append(asyncio.run(_cost(broker, count)))
        finally:
            broker.stop()
            broker.discard()
    return found


async def _cost(broker: Kept, count: int) -> Cost:
    async with api.Api(broker.home) as operator:
        after = ""

        async def page() -> float:
            nonlocal after
            began = time.perf_counter()
            told = await operator.ask(
                "GET", "/me/conversations", user=_USER, limit=_PAGE, **({"after": after} if after else {})
            )
            took = (time.perf_counter() - began) * 1000
            if len(told["conversations"]) != min(_PAGE, count) or told["conversations"][0]["total"] == 0:
                raise RuntimeError(f"a page of {len(told['conversations'])} conversations")
            after = "" if after else told["next"] or ""
            return took

        with Bystander(broker.port) as bystander:
            for _ in range(_WARM):
                await page()
            after = ""
            await asyncio.sleep(1)
            bystander.waits()
            await asyncio.sleep(1)
            idle = bystander.waits()
            memory, used = process.resident(broker.pid), process.cpu_seconds(broker.pid)
            took = [await page() for _ in range(2 * _TIMES)]
            cpu = (process.cpu_seconds(broker.pid) - used) / len(took) * 1000
            others = bystander.waits()
        grown = (process.resident(broker.pid) - memory) / (1 << 20)
        return Cost(count, took[::2], took[1::2], cpu, p99(idle), p99(others), grown)


def p99(waits: list[float]) -> float:
    """Of so many, what only one of a hundred is above."""
    return sorted(waits)[len(waits) * 99 // 100]


def table(found: list[Cost]) -> str:
    """The figures."""
    rows = [
        [
            "conversations",
            "first p50 ms",
            "p99",
            "next p50",
            "p99",
            "ms of CPU each",
            "others' PUBACK p99 before",
            "during",
            "MiB more",
        ]
    ]
    for one in found:
        pages = [f"{figure:.1f}" for page in (one.first, one.following) for figure in (statistics.median(page), p99(page))]
        rest = (f"{one.cpu:.1f}", f"{one.idle:.1f}", f"{one.others:.1f}", f"{one.grown:.0f}")
        rows.append([f"{one.conversations:,}", *pages, *rest])
    return f"Tideline: a page of {_PAGE} of a user's conversations, what was active last first\n\n{columns(rows)}"
