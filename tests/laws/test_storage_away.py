"""Laws 5 and 6: while storage is away nobody is acknowledged and memory is bounded; when it is back, work goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import laws_check as law
from tests.support.laws_process import BrokerProcess, broker_process
from tests.support.laws_wire import Collector, Flood, dropping, enter
from tests.support.mongo_server import MongoServer
from tests.support.seeds import seeds
from tests.support.until import until

PUBLISHERS = 3
SIZE = 20_000
"""Bytes of a message: large, so that what fills every socket is soon committed afterwards."""
AWAY = 2.5
"""Seconds without storage once every socket is full: longer than the publishers' keep-alive lets them be silent."""
GROWTH = 24 << 20
"""Bytes that the broker may grow by meanwhile; 4 MiB of them are what it gathers by its configuration."""
LIMITS = {"pending_bytes": 4 << 20}


class Outage(NamedTuple):
    """How storage goes away, and comes back."""

    begin: Callable[[BrokerProcess], None]
    end: Callable[[BrokerProcess], None]


async def publish_over(outage: Outage, broker: BrokerProcess) -> list[Flood]:
    """Publishers that push without pause, before, during and after the outage; a device hears them all the time."""
    reader = await enter(broker, "reader", "reader-1")
    await reader.subscribe("flood/#", options=1)
    clients = [await enter(broker, "pusher", f"pusher-{n}", clean=True, keep_alive=1) for n in range(PUBLISHERS)]
    async with dropping(reader, *clients):
        heard = Collector(reader)
        floods = [Flood(client, f"p{n}", f"flood/{n}", SIZE) for n, client in enumerate(clients)]
        await until(lambda: all(len(flood.acked) >= 50 for flood in floods), "every publisher is acknowledged")
        before = broker.rss
        outage.begin(broker)
        await _stuck(floods)
        await _nothing_moves(floods, broker, before)
        outage.end(broker)
        for flood in floods:
            flood.halt()
        for flood in floods:
            await flood.finish(60)
        await heard.wait(sum(flood.sent for flood in floods), 60)
        await heard.end()
        for flood in floods:
            mine = [payload for payload in heard.got if payload.startswith(flood.name + ":")]
            assert mine == [f"{flood.name}:{number}" for number in range(flood.sent)]
    return floods


async def _stuck(floods: list[Flood]) -> None:
    """Wait until every socket is full and what was being committed has come to its end: nothing moves for a second."""
    seen, since = [-1], 0.0

    def still() -> bool:
        nonlocal seen, since
        now = asyncio.get_running_loop().time()
        if seen != (seen := [number for flood in floods for number in (flood.sent, len(flood.acked))]):
            since = now
        return now - since >= 1.0

    await until(still, lambda: f"sockets full and nothing acknowledged, without storage: sent and acknowledged {seen}")


async def _nothing_moves(floods: list[Flood], broker: BrokerProcess, before: int) -> None:
    acked = [len(flood.acked) for flood in floods]
    deadline = asyncio.get_running_loop().time() + AWAY
    while asyncio.get_running_loop().time() < deadline:  # what must not happen has to be given time to happen
        await asyncio.sleep(0.1)  # not a wait: time in which nothing may happen
        assert [len(flood.acked) for flood in floods] == acked, "acknowledged without storage"
        assert broker.rss - before < GROWTH, f"the broker grew by {broker.rss - before >> 20} MiB"
        for flood in floods:
            flood.check()


def nothing_is_lost_or_doubled(url: str, floods: list[Flood]) -> None:
    stored = law.read_all(url, page=(1 << 20) // SIZE)
    law.timelines_are_whole(stored)
    for number, flood in enumerate(floods):
        kept = [message.payload.decode().rstrip() for message in stored.conversations[f"flood/{number}"]]
        assert kept == [f"{flood.name}:{n}" for n in range(flood.sent)]
    law.inboxes_hold_what_is_due(stored, {"u/reader": {"flood/#"}})


def survive(outage: Outage, folder: Path, url: str) -> None:
    with broker_process(folder, url, limits=LIMITS) as broker:
        floods = asyncio.run(publish_over(outage, broker))
        assert "storage is back" in broker.log  # that is, it was away, and this process has seen it
        broker.stop()
    nothing_is_lost_or_doubled(url, floods)


def test_the_disk_is_full(tmp_path: Path) -> None:
    log = tmp_path / "laws.db-wal"
    outage = Outage(lambda broker: broker.limit_file_size(log.stat().st_size), lambda broker: broker.limit_file_size(None))
    survive(outage, tmp_path, f"sqlite:///{tmp_path}/laws.db")


@pytest.mark.parametrize("impatient", seeds(True, more=[False]))
def test_mongodb_is_frozen(tmp_path: Path, mongo: MongoServer, mongo_url: str, impatient: bool) -> None:
    limits = "&socketTimeoutMS=700&serverSelectionTimeoutMS=500&connectTimeoutMS=500" if impatient else ""
    outage = Outage(lambda _: mongo.freeze(), lambda _: mongo.thaw())
    if impatient:
        survive(outage, tmp_path, mongo_url + limits)
        return
    with broker_process(tmp_path, mongo_url, limits=LIMITS) as broker:
        floods = asyncio.run(publish_over(outage, broker))
        broker.stop()
    nothing_is_lost_or_doubled(mongo_url, floods)


def test_mongodb_is_killed_and_started_again(tmp_path: Path, mongo: MongoServer, mongo_url: str) -> None:
    survive(Outage(lambda _: mongo.kill(), lambda _: mongo.start()), tmp_path, mongo_url)
