"""What one node uses of its processor to tell others, and to read what they tell, by how many others there are.

Nodes without brokers in one process over one database. A parcel has one message for one inbox, as in a large cluster, where a
group's messages go to as many nodes. Only the sender's, or the reader's, own processor time is taken.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from bench.cluster.costs import Lanes
from bench.peers.mongo import Mongo
from bench.storage import NOW, PAYLOAD

if TYPE_CHECKING:
    from storage.cluster import Cluster, Parcel

_MANY = 12
_TIMES = 15


def measure(mongo: Mongo) -> Lanes:
    """Microseconds, from medians with one other node and with many."""
    return asyncio.run(_measure(mongo))


async def _measure(mongo: Mongo) -> Lanes:
    async with AsyncExitStack() as stack:
        url = mongo.url(f"tideline_bench_{uuid.uuid4().hex}")
        nodes = [await stack.enter_async_context(_node(url)) for _ in range(_MANY + 1)]
        me, others = nodes[0], nodes[1:]
        send = [await _send(me, others[:count]) for count in (1, _MANY)]
        read = [await _read(me, others[:count]) for count in (1, _MANY)]
    more_sent, more_read = ((many - one) / (_MANY - 1) for one, many in (send, read))
    return Lanes(max(0.0, send[0] - more_sent), max(0.0, read[0] - more_read), max(0.0, more_sent), max(0.0, more_read))


@asynccontextmanager
async def _node(url: str) -> AsyncIterator[Cluster]:
    from storage.mongo import MongoStorage

    storage = MongoStorage(url)
    await storage.open()
    try:
        assert storage.cluster is not None
        yield storage.cluster
    finally:
        await storage.close()


def _parcel(number: int) -> Parcel:
    from storage.cluster import Parcel, Wake
    from storage.records import Message

    message = Message(NOW + number, "site/1/temperature", "u/device-1", "device-1", NOW, 1, PAYLOAD)
    return Parcel(wakes=[Wake("u/reader-1", number + 1, message)])


async def _send(me: Cluster, others: list[Cluster]) -> float:
    """Microseconds of one `send` to all of them."""
    times = []
    for number in range(_TIMES):
        began = time.process_time()
        await me.send({other.me.token: _parcel(number) for other in others})
        times.append(time.process_time() - began)
    return statistics.median(times) * 1e6


async def _read(me: Cluster, others: list[Cluster]) -> float:
    """Microseconds of one `receive` of a parcel of each, with the removal of what the one before gave."""
    times = []
    for number in range(_TIMES):
        for other in others:
            await other.send({me.me.token: _parcel(number)})
        began, got = time.process_time(), 0
        while got < len(others):
            got += len(await me.receive(5.0))
        times.append(time.process_time() - began)
    return statistics.median(times) * 1e6
