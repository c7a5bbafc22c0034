"""Fills a database with unread messages: ``python -m tests.support.laws_backlog <url> <count>``, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time

from storage.factory import open_url
from storage.records import NEVER, Append, DeviceKey, Message, OpenSession, Subscribe, Subscription

USER, NAME, TOPIC = "reader", "reader-1", "backlog/1"
GROUP = 2000
WIDTH = 100
"""Bytes of a payload: its number, from 0, and filling. All the same, so that a reader can count frames by their size."""


async def fill(url: str, count: int) -> None:
    """A durable device of `USER`, not connected, with so many messages at QoS 1 unread."""
    storage = open_url(url)
    await storage.open()
    try:
        key, now = DeviceKey(f"u/{USER}", NAME), time.time_ns() // 1_000_000
        await storage.commit([OpenSession(key, 1, True, NEVER, at=now), Subscribe(key, 1, [Subscription(TOPIC, 1, since=-1)])])
        for start in range(0, count, GROUP):
            await storage.commit([_message(now, number) for number in range(start, min(count, start + GROUP))])
    finally:
        await storage.close()


def _message(now: int, number: int) -> Append:
    payload = str(number).encode().ljust(WIDTH)
    return Append(Message((now << 20) + number, TOPIC, "u/writer", "writer-1", now, 1, payload), (f"u/{USER}",))


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1], int(sys.argv[2])))
