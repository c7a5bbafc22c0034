"""The broker's process is killed at any instant of a commit: the next node finishes the fan-out once."""

from __future__ import annotations

import asyncio
import random

import pytest

from storage.mongo import MongoStorage
from storage.rules import content_digest
from tests.storage.samples import all_retained, collect
from tests.storage_mongo.groups import check_laws, content, fail_over
from tests.storage_mongo.processes import Writer
from tests.support import mongo_server
from tests.support.mongo_proxy import LOSABLE, WRITES, Command, MongoProxy
from tests.support.mongo_server import MongoServer
from tests.support.seeds import seeds

LEASE = "tideline_lease_ms=400"


async def check_state(storage: MongoStorage) -> None:
    """Retained messages, packet ids, keys and rows are those of the stored messages: nothing of a message was left out."""
    stored = list(await storage.read_tail(0, 1_000_000, 1 << 40))
    retained = {message.topic: message.id for message in await all_retained(storage)}
    assert retained == {message.topic: message.id for message in stored if message.retain}
    documents = await storage.collections.store.find({}).to_list(None)
    packet_ids = {document["received"][2] for document in documents if "received" in document}
    assert {packet_id for device in await collect(storage.devices()) for packet_id in device.received} == packet_ids
    done = await storage.collections.idempotency.find({"done": 1}).to_list(None)  # others are claimed, and never were stored
    keys = {d["_id"]: (d["digest"], d["mid"], d["seq"]) for d in done}
    own = [row for topic in {m.topic for m in stored} for row in await storage.rows("own", topic, limit=100_000)]
    assert {int(row.key, 16): row.value for row in own} == {message.id: message.payload for message in stored}
    for topic, last in {m.topic: m.id for m in sorted(stored, key=lambda m: m.seq)}.items():
        row = await storage.row("last", topic, "last")
        assert row is not None
        assert row.value == b"%016x" % last, topic
    if stored:
        odd = max(message.id for message in stored) >> 22 & 1
        assert (await storage.row("odd", "", "odd") is not None) == bool(odd)
    by_id = {message.id: message for message in stored}
    assert keys == {d["once"]: (content_digest(by_id[d["mid"]]), d["mid"], d["seq"]) for d in documents if "once" in d}
    assert {topic for topic, _, _ in await collect(storage.conversations())} == {message.topic for message in stored}
    assert {user for user, _, _ in await collect(storage.inboxes())} == {u for d in documents for u in d.get("recipients", ())}


async def check_after_crash(url: str, acked: set[int]) -> int:
    """Open, finish for the dead, check all laws, and that finishing again changes nothing; the highest count of a stored id."""
    storage = MongoStorage(url)
    await storage.open()
    dead = await fail_over(storage)
    await check_laws(storage, acked)
    await check_state(storage)
    before = await content(storage)
    for token in dead:
        assert storage.cluster is not None
        assert (await storage.cluster.finish(token)).entries == 0
    assert await content(storage) == before
    newest = await storage.collections.store.find_one({}, {"mid": 1}, sort=[("mid", -1)])
    await storage.close()
    return int(newest["mid"]) >> 22 if newest else 0


@pytest.mark.parametrize("obeyed", [True, False], ids=["obeyed", "unsent"])
@pytest.mark.parametrize("number", range(1, 8))
async def test_killed_at_any_write_of_a_group(database: str, proxy: MongoProxy, number: int, obeyed: bool) -> None:
    """The ``number``-th write of a group is the last that the process sends, or the first that it does not."""
    writer = await Writer.start(mongo_server.url(database, LEASE, through=proxy.port), seed=number)
    await writer.lines(3)
    armed, left = False, number

    def kill(command: Command) -> bool:
        nonlocal armed, left
        if command.name not in WRITES or command.collection not in LOSABLE:
            return True
        armed = armed or command.collection == "store"
        left -= armed
        if armed and left <= 0:
            writer.kill_now()
            return obeyed and left == 0
        return True

    proxy.pass_on = kill
    await writer.finish()
    await check_after_crash(mongo_server.url(database, LEASE), writer.acked)


@pytest.mark.parametrize("seed", seeds(0, more=[1, 2, 3]))
async def test_killed_at_random_instants(database: str, seed: int) -> None:
    chance, acked, first = random.Random(seed), set[int](), 1
    url = mongo_server.url(database, LEASE)
    for round in range(4):
        writer = await Writer.start(url, first=first, seed=seed * 100 + round)
        await writer.lines(1 + chance.randrange(4))
        try:
            async with asyncio.timeout(chance.random() * 0.2):
                while await writer.line():
                    pass
        except TimeoutError:
            await writer.kill()
        acked |= writer.acked
        first = await check_after_crash(url, acked) + 1
    assert acked


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="kills the server, which must be the test's own")
async def test_the_server_killed_again_and_again(killable: MongoServer) -> None:
    """The broker goes on by itself each time; nothing that was acknowledged is missing, nothing is there twice."""
    chance = random.Random(7)
    writer = await Writer.start(killable.url("tideline", "tideline_lease_ms=3000&serverSelectionTimeoutMS=500"), seed=7)
    for _ in range(6):
        await writer.lines(1 + chance.randrange(12))
        await asyncio.to_thread(killable.restart)
    await writer.lines(3)
    await writer.kill()
    await asyncio.to_thread(killable.restart)
    await check_after_crash(killable.url("tideline", "tideline_lease_ms=3000"), writer.acked)


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="kills the server, which must be the test's own")
async def test_both_killed_at_once(killable: MongoServer) -> None:
    acked, first = set[int](), 1
    for round in range(3):
        url = killable.url("tideline", LEASE)
        writer = await Writer.start(url, first=first, seed=50 + round)
        await writer.lines(4 + round)
        killable.kill()
        await writer.kill()
        killable.start()
        acked |= writer.acked
        first = await check_after_crash(url, acked) + 1
