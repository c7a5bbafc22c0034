"""A process that commits groups to MongoDB until it is done or killed, and says on stdout which messages were acknowledged.

``python -m tests.support.mongo_writer URL NAME FIRST STEP GROUPS SEED``: ids are its node's, counted FIRST, FIRST + STEP, …
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Append, DeviceKey, DropRow, Message, OpenSession, Operation, PutRow
from tests.storage.samples import numbered

TOPICS, USERS = 4, 5
FAR = 1 << 50
T = TypeVar("T")


def make_group(name: str, number: int, first: int, step: int, chance: random.Random) -> list[Operation]:
    """Some messages with recipients, packet ids, retained messages, keys, and rows: each message has one of its own, one that
    says which of its topic was last, and one that comes with every other message and goes with the next."""
    group: list[Operation] = []
    rows: list[Operation] = []
    device = DeviceKey(f"u/{name}", name)
    for n in range(chance.choice((1, 2, 7, 20))):
        count = first + n * step
        id, payload = numbered(count, number), b"payload %d" % count
        message = Message(id, f"t/{chance.randrange(TOPICS)}", device.user, name, count, 2, payload, n % 5 == 0)
        to = chance.sample([f"u/{user}" for user in range(USERS)], chance.randrange(USERS))
        append = Append(message, to, retain=message.retain)
        if n % 2:
            append.received = (device, count % 65535 + 1)
        if n % 3 == 0:
            append.idempotency_key, append.idempotency_until = f"k{id}", FAR
        group.append(append)
        rows.append(PutRow.naming(append, "own", message.topic, partial(_own, payload), 0))
        rows.append(PutRow.naming(append, "last", message.topic, lambda id: ("last", b"%016x" % id)))
        rows.append(PutRow("odd", "", "odd", b"", of=append) if count // step % 2 else DropRow("odd", "", "odd", of=append))
    return [*group, *rows]


def _own(payload: bytes, id: int) -> tuple[str, bytes]:
    return f"{id:016x}", payload


async def _again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Others of its kind may be under way already, and the server killed below them all."""
    while True:
        try:
            return await attempt()
        except StorageUnavailable:
            await asyncio.sleep(0.02)  # not a wait: between two tries


async def _open(url: str) -> MongoStorage:
    while True:
        storage = MongoStorage(url)
        try:
            await storage.open()
        except StorageUnavailable:
            await asyncio.sleep(0.05)  # not a wait: between two tries
        else:
            return storage


async def main(url: str, name: str, first: int, step: int, groups: int, seed: int) -> None:
    """Commit the groups; a line per commit holds the ids that it acknowledged."""
    storage = await _open(url)
    chance = random.Random(seed)
    key = DeviceKey(f"u/{name}", name)
    device = await _again(lambda: storage.device(key))
    opening = OpenSession(key, device.epoch + 1 if device is not None else 1, False, 3600)
    await _again(lambda: storage.commit([opening]))
    if opening.error is not None:
        raise opening.error
    number = storage._state.number
    assert number is not None
    print("ready", flush=True)
    for _ in range(groups):
        group = make_group(name, number, first, step, chance)
        first += sum(isinstance(op, Append) for op in group) * step
        await _again(partial(storage.commit, group))
        print("acked", *(op.message.id for op in group if isinstance(op, Append)), flush=True)
    await storage.close()


if __name__ == "__main__":
    _, url, name, first, step, groups, seed = sys.argv
    asyncio.run(main(url, name, int(first), int(step), int(groups), int(seed)))
