"""Fills a database through the storage interface: `python -m bench.prefill URL --messages N --filters N`.

The one module here that imports a room of Tideline, because five million messages over MQTT would take minutes. It
leaves what a broker would have left: conversations, inboxes and disconnected devices with their subscriptions.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator

from storage.factory import open_url
from storage.records import Append, CloseSession, DeviceKey, Message, OpenSession, Operation, Subscribe, Subscription

CONVERSATIONS = 10_000
USERS = 1_000
FILTERS_PER_DEVICE = 100
GROUP = 5_000
MONTH = 30 * 86400
ROOM = "group/room"
"""The topic that all members of a group have a filter for."""


def _filter(number: int) -> str:
    """Filters as fleets have them: exact names, one level open, everything below."""
    site, device = divmod(number, 200)
    return (f"site/{site}/device/{device}/state", f"site/{site}/+/{device}/alarm", f"site/{site}/device/{device}/#")[number % 3]


def _devices(filters: int, epoch: int) -> Iterator[list[Operation]]:
    for first in range(0, filters, FILTERS_PER_DEVICE):
        name = f"filler-{first // FILTERS_PER_DEVICE}"
        key = DeviceKey(f"c/{name}", name)
        names = [_filter(number) for number in range(first, min(first + FILTERS_PER_DEVICE, filters))]
        yield [
            OpenSession(key, epoch, clean=False, expiry=0xFFFFFFFF),
            Subscribe(key, epoch, [Subscription(one, 1) for one in names]),
            CloseSession(key, epoch, delete=False),
        ]


def _message(number: int, payload: bytes, now: int) -> Append:
    user = f"c/filler-{number % USERS}"
    message = Message(number, f"history/{number % CONVERSATIONS}", user, user[2:], now, 1, payload)
    return Append(message, recipients=(user,))


def _absent(first: int, last: int, now: int, topic: str) -> Iterator[Operation]:
    """Devices as a fleet leaves them: each a user of its own, gone, to be kept for 30 days; with the same ``topic``, or where
    that is empty each with one of its own."""
    for number in range(first, last):
        name = f"device-{number:07}"
        key = DeviceKey(f"c/{name}", name)
        yield OpenSession(key, 1, clean=False, expiry=MONTH)
        yield Subscribe(key, 1, [Subscription(topic or f"fleet/{name}/commands", 1)])
        yield CloseSession(key, 1, delete=False, expiry=MONTH, expires_at=now + MONTH * 1000 - number)


async def fill_devices(url: str, devices: int, topic: str = "") -> None:
    """Fill the database with durable sessions that nobody is connected to; ``topic``: of the one that they all want."""
    storage = open_url(url)
    await storage.open()
    try:
        now = time.time_ns() // 1_000_000
        for first in range(0, devices, GROUP):
            await storage.commit(list(_absent(first, min(first + GROUP, devices), now, topic)))
    finally:
        await storage.close()


async def fill(url: str, messages: int, filters: int) -> float:
    """Fill the database; the seconds that it took."""
    began = time.monotonic()
    storage = open_url(url)
    await storage.open()
    try:
        for operations in _devices(filters, 1):
            await storage.commit(operations)
        now, payload = time.time_ns() // 1_000_000, bytes(32 + place % 95 for place in range(128))
        first = await storage.last_id() + 1
        for start in range(first, first + messages, GROUP):
            stop = min(start + GROUP, first + messages)
            await storage.commit([_message(number, payload, now) for number in range(start, stop)])
    finally:
        await storage.close()
    return time.monotonic() - began


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.prefill", description="Fill a database for the benchmark.")
    parser.add_argument("url", help="storage URL, such as sqlite:///data/tideline.db")
    parser.add_argument("--messages", type=int, default=5_000_000)
    parser.add_argument("--filters", type=int, default=100_000)
    parser.add_argument("--devices", type=int, help="nothing but so many durable sessions that nobody is connected to")
    parser.add_argument("--members", type=int, help=f"the same, all of which have a filter for {ROOM}")
    given = parser.parse_args()
    if given.members:
        asyncio.run(fill_devices(given.url, given.members, ROOM))
        return
    if given.devices:
        asyncio.run(fill_devices(given.url, given.devices))
        return
    seconds = asyncio.run(fill(given.url, given.messages, given.filters))
    print(f"{given.messages:,} messages and {given.filters:,} filters in {seconds:.0f} s")


if __name__ == "__main__":
    main()
