"""A process that commits groups to MongoDB until it is done or killed, and says on stdout which messages were acknowledged.

``python -m tests.support.mongo_writer URL NAME FIRST_ID STEP GROUPS SEED SHARED``: ids are FIRST_ID, FIRST_ID + STEP, …
"""

from __future__ import annotations

import asyncio
import random
import sys

from storage.errors import StorageInUse, StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Append, DeviceKey, Message, OpenSession, Operation

TOPICS, USERS = 4, 5
FAR = 1 << 50


def make_group(name: str, first: int, step: int, chance: random.Random) -> list[Operation]:
    """Some messages with recipients, packet ids, retained messages and keys."""
    group: list[Operation] = []
    device = DeviceKey(f"u/{name}", name)
    for n in range(chance.choice((1, 2, 7, 20))):
        id = first + n * step
        message = Message(id, f"t/{chance.randrange(TOPICS)}", device.user, name, id, 2, b"payload %d" % id, n % 5 == 0)
        to = chance.sample([f"u/{user}" for user in range(USERS)], chance.randrange(USERS))
        append = Append(message, to, retain=message.retain)
        if n % 2:
            append.received = (device, id % 65535 + 1)
        if n % 3 == 0:
            append.idempotency_key, append.idempotency_until = f"k{id}", FAR
        group.append(append)
    return group


async def _again(storage: MongoStorage, group: list[Operation]) -> None:
    while True:
        try:
            await storage.commit(group)
        except StorageUnavailable:
            await asyncio.sleep(0.02)  # not a wait: between two tries
        else:
            return


async def _open(url: str, shared: bool) -> MongoStorage:
    while True:
        storage = MongoStorage(url, shared=shared)
        try:
            await storage.open()
        except (StorageUnavailable, StorageInUse):
            await asyncio.sleep(0.05)  # not a wait: between two tries
        else:
            return storage


async def main(url: str, name: str, first: int, step: int, groups: int, seed: int, shared: bool) -> None:
    """Commit the groups; a line per commit holds the ids that it acknowledged."""
    storage = await _open(url, shared)
    chance = random.Random(seed)
    await _again(storage, [OpenSession(DeviceKey(f"u/{name}", name), 1, False, 3600)])
    print("ready", flush=True)
    for _ in range(groups):
        group = make_group(name, first, step, chance)
        first += len(group) * step
        await _again(storage, group)
        print("acked", *(op.message.id for op in group if isinstance(op, Append)), flush=True)
    await storage.close()


if __name__ == "__main__":
    _, url, name, first, step, groups, seed, shared = sys.argv
    asyncio.run(main(url, name, int(first), int(step), int(groups), int(seed), shared == "1"))
