"""A node's place among the others: joining, what it may do while it cannot beat, and what it finds when it wakes up."""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from storage.cluster import DEAD, NUMBER_RESTS_MS, NUMBERS, UP, Cluster, Node
from storage.errors import FencedOut, StorageUnavailable, StorageUnusable
from storage.mongo import MongoStorage
from storage.mongo.process import this_process
from storage.records import CloseSession, DeviceKey, Operation, Progress
from tests.cluster_storage.backends import ends
from tests.storage.samples import Maker, device_fields, opened
from tests.storage_mongo.groups import check_laws, content, told
from tests.storage_mongo.processes import Writer
from tests.storage_mongo.test_process import name_of_ended
from tests.support import mongo_server
from tests.support.mongo_proxy import Command, MongoProxy
from tests.support.until import until

LEASE_MS = 600
LEASE = f"tideline_lease_ms={LEASE_MS}&serverSelectionTimeoutMS=1000"
LONG = "tideline_lease_ms=8000&serverSelectionTimeoutMS=1000"
ANN = DeviceKey("u/ann", "phone")


async def joined(database: str, *, through: int = 0, options: str = LEASE) -> MongoStorage:
    storage = mongo_server.PatientStorage(mongo_server.url(database, options, through=through))
    await storage.open()
    return storage


def part_of(storage: MongoStorage) -> Cluster:
    assert storage.cluster is not None
    return storage.cluster


async def node_at(observer: MongoStorage, token: int) -> Node:
    return next(node for node in await part_of(observer).nodes() if node.token == token)


async def failed_over(observer: MongoStorage, other: MongoStorage) -> None:
    """Watch a node until it has shown no beat for a lease, then mark it dead and finish what it left."""
    token = part_of(other).me.token
    seen, since = await node_at(observer, token), time.monotonic()

    async def silent() -> bool:
        nonlocal seen, since
        now = await node_at(observer, token)
        if now.beat != seen.beat:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= LEASE_MS / 1000

    await until(silent, "no beat is seen for a lease")
    assert await part_of(observer).mark_dead(seen)
    await part_of(observer).finish(token)


async def test_a_node_that_was_cut_off_finds_itself_marked(database: str, proxy: MongoProxy, make: Maker) -> None:
    """It wakes up after another one has its devices: it acknowledges nothing, and none of its writes has an effect."""
    old, new = await joined(database, through=proxy.port), await joined(database)
    await old.commit([opened(ANN), make.append("a", ["u/ann"])])
    await proxy.stop()
    await failed_over(new, old)
    assert await part_of(new).take(ANN, part_of(old).me.token, lambda device: CloseSession(ANN, device.epoch, False))
    await new.commit([opened(ANN, 3)])
    await new.commit([make.append("a", ["u/ann"]), Progress(ANN, 3, 1, 1, [])])
    before = await content(new)
    await proxy.start()
    for _ in range(2):
        with pytest.raises(FencedOut):
            await ends(lambda: old.commit([make.append("a", ["u/ann"]), Progress(ANN, 1, 0, 0, [])]))
    assert await content(new) == before
    await old.close()
    await new.commit([make.append("a", ["u/ann"])])
    assert await check_laws(new) == 3
    await new.close()


async def test_a_node_that_sleeps_within_a_commit_does_not_acknowledge(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Its message is in the store, and it is cut off before the inbox: who takes over finishes the fan-out."""
    proxy.older = True
    old, new = await joined(database, through=proxy.port), await joined(database)
    await old.commit([opened(ANN), make.append("a", ["u/ann"])])
    cut = asyncio.Event()

    def cut_behind_the_store(command: Command) -> bool:
        if command.name == "insert" and command.collection == "sync":
            cut.set()
        return not cut.is_set()

    proxy.pass_on = cut_behind_the_store
    group: list[Operation] = [make.append("a", ["u/ann"]), Progress(ANN, 1, 2, 2, [])]
    with pytest.raises(StorageUnavailable):
        await old.commit(group)
    assert cut.is_set()
    await failed_over(new, old)
    assert await check_laws(new, [2]) == 2
    before = device_fields(await new.device(ANN))
    proxy.pass_on = lambda command: True
    with pytest.raises(FencedOut):
        await ends(lambda: old.commit(group))
    assert device_fields(await new.device(ANN)) == before
    assert await check_laws(new) == 2
    await old.close()
    await new.close()


async def test_a_node_that_cannot_beat_acknowledges_nothing(database: str, proxy: MongoProxy, make: Maker) -> None:
    """All else reaches the database: it is not known whether others have marked it."""
    storage = await joined(database, through=proxy.port)
    await storage.commit([make.append("a")])
    proxy.pass_on = lambda command: command != Command("update", "nodes")
    last = began = time.monotonic()
    async with asyncio.timeout(30):
        while await told(storage, [make.append("a")]):
            last = time.monotonic()
    assert last - began < LEASE_MS / 1000, "acknowledged when others might have marked it"
    proxy.pass_on = lambda command: True
    await ends(lambda: storage.commit([make.append("a")]))
    await storage.close()


async def test_a_server_that_was_away_longer_than_the_lease_is_served_on(database: str, proxy: MongoProxy, make: Maker) -> None:
    storage = await joined(database, through=proxy.port)
    await proxy.stop()
    group = [make.append("a", ["u/ann"])]
    deadline = time.monotonic() + LEASE_MS / 1000 * 1.5
    while time.monotonic() < deadline:
        with pytest.raises(StorageUnavailable):
            await storage.commit(group)
    await proxy.start()
    async with asyncio.timeout(10):
        await ends(lambda: storage.commit(group))
    assert group[0].message.seq == 1
    await storage.close()


@pytest.mark.skipif(not this_process(), reason="the system does not tell when a process was started")
async def test_a_node_marks_its_predecessor_without_waiting_for_its_lease(database: str) -> None:
    """One of this machine whose process has ended."""
    options = "tideline_lease_ms=8000"
    writer = await Writer.start(mongo_server.url(database, options))
    await writer.lines(2)
    storage = await joined(database, options=options)
    token = part_of(storage).me.token
    assert (await node_at(storage, token - 1)).state == UP
    await writer.kill()
    other = await joined(database, options=options)
    assert (await node_at(other, token - 1)).state == DEAD
    assert (await node_at(other, token)).state == UP
    await part_of(other).finish(token - 1)
    await check_laws(other, writer.acked)
    await storage.close()
    await other.close()


@pytest.mark.skipif(not this_process(), reason="the system does not tell when a process was started")
async def test_a_node_that_beats_in_another_copy_of_this_machine_is_not_marked(database: str) -> None:
    """Its process has a name of this machine, on which it is no more."""
    one = await joined(database, options=LONG)
    await one.collections.nodes.update_one({"token": 1}, {"$set": {"process": name_of_ended()}})
    joining = asyncio.ensure_future(joined(database, options=LONG))
    while not joining.done():
        await part_of(one).beat(done=0, routes=0, sessions=0)
    other = await joining
    assert [(await node_at(other, token)).state for token in (1, 2)] == [UP, UP]
    await one.close()
    await other.close()


async def test_of_a_node_that_runs_twice_one_is_left(database: str, make: Maker) -> None:
    """Its machine was copied while it ran: both go on with one token, and the ids of one number."""
    storage = await joined(database, options=LONG)
    node = storage._node
    assert node is not None
    assert node._task is not None
    node._task.cancel()
    twin = copy.copy(node)
    twin._marks, twin._turn = copy.copy(node._marks), asyncio.Lock()
    await twin.renew()
    with pytest.raises(FencedOut, match="runs twice"):
        await node.renew()
    with pytest.raises(FencedOut, match="runs twice"):
        await storage.commit([make.append()])
    await twin.renew()
    observer = await joined(database, options=LONG)
    await storage.close()
    assert (await node_at(observer, 1)).state == UP, "it is the twin that has it"
    await observer.close()


async def test_a_node_knows_its_own_beats_of_which_it_heard_nothing(database: str, proxy: MongoProxy) -> None:
    storage = await joined(database, through=proxy.port, options=LONG)
    node = storage._node
    assert node is not None

    before = (await node_at(storage, 1)).beat
    proxy.lose = lambda command: command.name == "update" and command.collection == "nodes"
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await node.renew()
    proxy.lose_nothing()
    await ends(node.renew)
    assert (await node_at(storage, 1)).beat >= before + 3
    await storage.close()


async def test_a_node_of_another_machine_is_not_marked(database: str) -> None:
    one = await joined(database)
    fields = name_of_ended().split(" ")
    fields[0] = "another boot"
    await one.collections.nodes.update_one({"token": 1}, {"$set": {"process": " ".join(fields)}})
    other = await joined(database)
    assert (await node_at(other, 1)).state == UP
    await one.close()
    await other.close()


async def test_nodes_that_join_at_once_have_numbers_and_tokens_of_their_own(database: str) -> None:
    storages = await asyncio.gather(*(joined(database) for _ in range(5)))
    nodes = [part_of(storage).me for storage in storages]
    assert sorted(node.number for node in nodes) == [0, 1, 2, 3, 4]
    assert sorted(node.token for node in nodes) == [1, 2, 3, 4, 5]
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_a_dead_nodes_number_is_free_after_hours_and_what_is_older_is_forgotten(database: str) -> None:
    one, other = await joined(database), await joined(database)
    token = part_of(other).me.token
    await other._node.leave(settled=False)  # type: ignore[union-attr]
    await part_of(one).settle(token)
    for hours, number in ((0, 2), (NUMBER_RESTS_MS + 60_000, 1), (0, 1)):
        await one.collections.nodes.update_one({"token": token}, {"$inc": {"ended": -hours}})
        third = await joined(database)
        assert part_of(third).me.number == number
        await third.close()
    kept = [document["token"] for document in await one.collections.nodes.find().to_list(None)]
    assert token not in kept
    assert sorted(kept) == [1, 3, 4, 5]
    await one.close()
    await other.close()


async def test_when_no_number_is_free_a_node_is_refused(database: str) -> None:
    one = await joined(database)
    me: dict[str, Any] = (await one.collections.nodes.find_one({})) or {}
    gone = {"state": "gone", "ended": await part_of(one).time()}
    dead = [{**me, **gone, "_id": f"{n:016d}", "token": n, "number": n - 1} for n in range(2, NUMBERS + 1)]
    await one.collections.nodes.insert_many(dead)
    with pytest.raises(StorageUnusable, match="all 1024 node numbers are in use"):
        await joined(database)
    await one.close()


async def test_another_lease_is_refused(database: str) -> None:
    one = await joined(database)
    with pytest.raises(StorageUnusable, match="tideline_lease_ms is '5000' here and '600' on node 0"):
        await joined(database, options="tideline_lease_ms=5000")
    await one.close()


async def test_one_that_only_looks_is_no_node(database: str) -> None:
    one = await joined(database)
    looker = MongoStorage(mongo_server.url(database), read_only=True)
    await looker.open()
    assert looker.cluster is None
    assert len(await part_of(one).nodes()) == 1
    await looker.close()
    await one.close()


async def test_a_later_schema_is_refused_with_both_versions(database: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongo_server.url(database)) as client:
        await client[database].meta.insert_one({"_id": "schema", "version": 3})
    with pytest.raises(StorageUnusable, match="has schema 3, this version of tideline knows 2"):
        await joined(database)
