"""The MongoDB backend's group commit beside a bare `insert_many` of the same documents on the same server.

The server is the one that ``TIDELINE_TEST_MONGODB`` says (`bench.peers.mongo`); two databases are made on it and
dropped. The bare side writes what the commits just wrote, into collections with the same indexes and write concern: for each
group one ordered `insert_many` of the messages, then one of the inbox entries. Event loop and garbage collector are as in a
broker, and so is the core, which is compiled where `make compile` was run: hence a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.drive import Options
from bench.peers.base import Peer, PeerError
from bench.peers.mongo import EXTERNAL, Mongo
from bench.peers.tideline import Tideline
from bench.process import cpu_seconds
from bench.rounds import say
from bench.storage import appends
from bench.table import columns
from broker.cli.serve import GARBAGE_AFTER, loop_factory

if TYPE_CHECKING:
    from storage.mongo import MongoStorage
    from storage.records import Append

SIZES = (1, 16, 64, 256, 1000)
BOUND = 0.6
"""The share of the bare rate that is to be reached."""
_TOPICS = 10
_SIDES = (attrgetter("commit"), attrgetter("bare"))


class Cost(NamedTuple):
    """Seconds: of the clock, of this process's processor time, and of the server's (0 where it is not ours)."""

    wall: float
    own: float
    server: float

    @property
    def busy(self) -> float:
        """Both processors' time, which other work on the machine disturbs less than the clock."""
        return self.own + self.server


class Pair(NamedTuple):
    """What the same messages cost, in groups of one size: committed, and bare."""

    size: int
    messages: int
    commit: Cost
    bare: Cost


def measure(rounds: int, options: Options) -> list[Pair] | str:
    """The pairs, or why there are none."""
    say("MongoDB: group commits beside a bare insert_many")
    path = os.pathsep.join([str(Tideline.tree), str(Path(__file__).absolute().parents[1])])
    command = [sys.executable, "-P", "-m", "bench.storage_mongodb", str(rounds), str(options.seconds)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return f"MongoDB: not measured: exit status {done.returncode}"
    found = json.loads(done.stdout)
    if isinstance(found, str):
        return found
    return [Pair(size, messages, Cost(*commit), Cost(*bare)) for size, messages, commit, bare in found]


def _measured(rounds: int, options: Options) -> list[Pair] | str:
    server = Mongo(in_memory=True)
    try:
        server.start()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_measure(server, rounds, options))
    except (PeerError, ImportError) as error:
        return f"MongoDB: not measured: {error}"
    finally:
        server.stop()


async def _measure(server: Mongo, rounds: int, options: Options) -> list[Pair]:
    pairs: list[Pair] = []
    gc.set_threshold(GARBAGE_AFTER)
    async with _database(server) as ours, _database(server) as bare:
        first = 1
        for number in range(rounds + 1):  # the first one warms up
            for size in SIZES:
                groups = [appends(first + n * size, size, _TOPICS) for n in range(_count(size, options))]
                first += len(groups) * size
                pair = await _pair(ours, bare, groups, server)
                if number:
                    pairs.append(pair)
    return pairs


def _count(size: int, options: Options) -> int:
    """How many groups make about the asked time on a slow server."""
    return max(2, int(options.seconds * min(100, 2000 // size)))


@asynccontextmanager
async def _database(server: Mongo) -> AsyncIterator[MongoStorage]:
    from storage.mongo import MongoStorage  # the extra may be missing

    name = f"tideline_bench_{uuid.uuid4().hex}"
    storage = MongoStorage(server.url(name))
    await storage.open()
    try:
        yield storage
    finally:
        client = storage.collections.store.database.client
        await client.drop_database(name)
        await storage.close()


async def _pair(ours: MongoStorage, bare: MongoStorage, groups: Sequence[list[Append]], server: Peer) -> Pair:
    with _Watch(server) as commit:
        for group in groups:
            await ours.commit(group)
    written = [await _written(ours, group) for group in groups]
    with _Watch(server) as inserts:
        for messages, entries in written:
            await bare.collections.store.insert_many(messages, ordered=True)
            await bare.collections.sync.insert_many(entries, ordered=True)
    count = sum(map(len, groups))
    assert count == sum(len(messages) for messages, _ in written) == sum(len(entries) for _, entries in written)
    return Pair(len(groups[0]), count, commit.cost, inserts.cost)


class _Watch:
    """Measures what is done while it is entered."""

    cost: Cost

    def __init__(self, server: Peer) -> None:
        self._server = server

    def _now(self) -> Cost:
        server = cpu_seconds(self._server.pid) if self._server.alive else 0.0
        return Cost(time.perf_counter(), time.process_time(), server)

    def __enter__(self) -> _Watch:
        self._began = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.cost = Cost(*(after - before for after, before in zip(self._now(), self._began, strict=True)))


async def _written(storage: MongoStorage, group: list[Append]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The documents of the store and of the inboxes that a group has become."""
    c = storage.collections
    ids = {"$gte": group[0].message.id, "$lte": group[-1].message.id}
    messages = await c.store.find({"mid": ids}).sort("mid", 1).to_list(None)
    return messages, await c.sync.find({"mid": ids}).sort("mid", 1).to_list(None)


def table(pairs: list[Pair] | str) -> str:
    """Medians by group size: rates, and the share of the bare rate that the commits reach."""
    if isinstance(pairs, str):
        return pairs
    rows = [["messages in a group", "commit", "bare", "share", "", "by processor time", "own time", "bare's"]]
    for size in SIZES:
        some = [pair for pair in pairs if pair.size == size]
        share = statistics.median(pair.bare.wall / pair.commit.wall for pair in some)
        busy = statistics.median(pair.bare.busy / pair.commit.busy for pair in some)
        rates = (statistics.median(pair.messages / cost(pair).wall for pair in some) for cost in _SIDES)
        own = (statistics.median(cost(pair).own / pair.messages * 1e6 for pair in some) for cost in _SIDES)
        line = [str(size), *(f"{rate:,.0f}/s" for rate in rates), f"{share:.0%}", "reached" if share >= BOUND else "MISSED"]
        rows.append([*line, f"{busy:.0%}", *(f"{time:,.0f} us" for time in own)])
    where = Mongo(in_memory=True).version() + ("" if EXTERNAL else ", whose speed says nothing about MongoDB's")
    build = Tideline().version()
    title = f"MongoDB backend ({build}): group commits beside a bare insert_many, on {where} (target: at least {BOUND:.0%})"
    note = "Own time: this process's processor time for a message; by processor time: with that of a server started here."
    return f"{title}\n\n{columns(rows)}\n\n{note}"


if __name__ == "__main__":
    print(json.dumps(_measured(int(sys.argv[1]), Options(seconds=float(sys.argv[2])))))
