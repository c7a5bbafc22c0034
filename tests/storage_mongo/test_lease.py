"""One serving node per database: who holds the lease, who waits for it, and what a node that lost it can no longer do."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from storage.errors import FencedOut, StorageInUse, StorageUnavailable
from storage.mongo import MongoStorage
from storage.mongo.process import this_process
from storage.records import DeviceKey, Operation, Progress
from tests.storage.samples import Maker, device_fields, opened
from tests.storage_mongo.groups import check_laws, content
from tests.storage_mongo.processes import Writer
from tests.storage_mongo.test_process import name_of_ended
from tests.support import mongo_server
from tests.support.mongo_proxy import Command, MongoProxy
from tests.support.until import until

LEASE_MS = 600
LEASE = f"tideline_lease_ms={LEASE_MS}"
ANN = DeviceKey("u/ann", "phone")


async def test_a_second_node_is_refused_and_told_who_serves(database: str, make: Maker) -> None:
    url = mongo_server.url(database, LEASE)
    first = MongoStorage(url)
    await first.open()
    second = MongoStorage(url)
    began = time.monotonic()
    with pytest.raises(StorageInUse) as refused:
        await second.open()
    assert time.monotonic() - began >= LEASE_MS / 1000
    record = await first.collections.lease.find_one({"_id": "serving"})
    assert record is not None
    assert record["owner"] in str(refused.value)
    await first.commit([make.append()])
    await first.close()


async def test_a_lease_that_was_given_back_is_taken_at_once(database: str) -> None:
    url = mongo_server.url(database, "tideline_lease_ms=60000")
    began = time.monotonic()
    for _ in range(3):
        storage = MongoStorage(url)
        await storage.open()
        await storage.close()
    assert time.monotonic() - began < 30


async def test_a_node_waits_for_one_that_is_about_to_stop(database: str) -> None:
    url = mongo_server.url(database, LEASE)
    first, second = MongoStorage(url), MongoStorage(url)
    await first.open()
    opening = asyncio.create_task(second.open())
    await first.close()
    await opening
    await second.close()


@pytest.mark.parametrize("known", [True, False], ids=["of this machine", "of another"])
async def test_the_lease_of_a_killed_node_runs_out(database: str, known: bool) -> None:
    """Soon, where the process was one of this machine: it is seen to have ended."""
    lease = 8.0
    url = mongo_server.url(database, f"tideline_lease_ms={lease * 1000:.0f}")
    writer = await Writer.start(url)
    await writer.lines(2)
    await writer.kill()
    if not known:
        await _set_process(database, "another")
    began = time.monotonic()
    storage = MongoStorage(url)
    await storage.open()
    took = time.monotonic() - began
    assert took >= lease / 4
    if this_process():
        assert (took < lease) == known
    await check_laws(storage, writer.acked)
    await storage.close()


async def _set_process(database: str, process: str) -> None:
    storage = MongoStorage(mongo_server.url(database), read_only=True)
    await storage.open()
    await storage.collections.lease.update_one({"_id": "serving"}, {"$set": {"process": process}})
    await storage.close()


async def test_two_that_live_and_look_alike_do_not_take_from_each_other(database: str, make: Maker) -> None:
    """As copies of one machine do, each of which sees no such process as the other's: the beats tell."""
    url = mongo_server.url(database, "tideline_lease_ms=2000")
    first = MongoStorage(url)
    await first.open()
    await _set_process(database, name_of_ended())
    for _ in range(2):
        second = MongoStorage(url)
        with pytest.raises(StorageInUse):
            await second.open()
    await first.commit([make.append()])
    await first.close()


async def test_one_that_tries_again_goes_on_from_what_it_has_seen(database: str, proxy: MongoProxy) -> None:
    """It was refused for a living holder, which dies then: its last beat counts from when it was seen."""
    lease = 3.0
    options = f"tideline_lease_ms={lease * 1000:.0f}"
    first = MongoStorage(mongo_server.url(database, options, through=proxy.port))
    await first.open()
    second = MongoStorage(mongo_server.url(database, options))
    with pytest.raises(StorageInUse):
        await second.open()
    await proxy.stop()
    died = time.monotonic()
    await until(lambda: time.monotonic() - died > lease / 2, "time passes between two attempts")
    await second.open()
    assert time.monotonic() - died < lease * 1.45
    await first.close()
    await second.close()


async def test_a_node_that_was_cut_off_finds_itself_fenced(database: str, proxy: MongoProxy, make: Maker) -> None:
    """It wakes up after another one took over: it acknowledges nothing, and none of its writes has an effect."""
    old = MongoStorage(mongo_server.url(database, LEASE + "&serverSelectionTimeoutMS=2000", through=proxy.port))
    await old.open()
    await old.commit([opened(ANN), make.append("a", ["u/ann"])])
    await proxy.stop()
    new = MongoStorage(mongo_server.url(database, LEASE))
    await new.open()
    await new.commit([make.append("a", ["u/ann"]), Progress(ANN, 1, 1, 1, [])])
    before = await content(new)
    await proxy.start()
    for _ in range(2):
        with pytest.raises(FencedOut):
            await old.commit([make.append("a", ["u/ann"]), Progress(ANN, 1, 0, 0, [])])
    assert await content(new) == before
    await new.commit([make.append("a", ["u/ann"])])
    await old.close()
    await new.commit([make.append("a", ["u/ann"])])
    assert await check_laws(new) == 4
    await new.close()


async def test_a_node_that_sleeps_within_a_commit_does_not_acknowledge(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Its message is in the store, the answer is held back until another node serves: that one has finished the fan-out."""
    old = MongoStorage(mongo_server.url(database, LEASE, through=proxy.port))
    await old.open()
    await old.commit([opened(ANN), make.append("a", ["u/ann"])])
    cut = asyncio.Event()

    def cut_behind_the_store(command: Command) -> bool:
        if command.name == "insert" and command.collection == "sync":
            cut.set()
            return False
        return command.collection != "lease" or not cut.is_set()

    proxy.pass_on = cut_behind_the_store
    group: list[Operation] = [make.append("a", ["u/ann"]), Progress(ANN, 1, 2, 2, [])]
    with pytest.raises(StorageUnavailable):
        await old.commit(group)
    assert cut.is_set()
    new = MongoStorage(mongo_server.url(database, LEASE))
    await new.open()
    assert await check_laws(new, [2]) == 2
    await new.commit([Progress(ANN, 1, 1, 1, [])])
    before = device_fields(await new.device(ANN))
    proxy.pass_on = lambda command: True
    with pytest.raises(FencedOut):
        await old.commit(group)
    assert device_fields(await new.device(ANN)) == before
    assert await check_laws(new) == 2
    await old.close()
    await new.close()


async def test_a_stale_state_write_changes_nothing(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Even one that was sent while the lease was held, and comes after the next holder's."""
    old = MongoStorage(mongo_server.url(database, LEASE, through=proxy.port))
    await old.open()
    await old.commit([opened(ANN)])
    new: list[MongoStorage] = []
    taken = asyncio.Event()

    async def take_over() -> None:
        storage = MongoStorage(mongo_server.url(database, LEASE))
        await storage.open()
        await storage.commit([Progress(ANN, 1, 9, 9, [])])
        new.append(storage)
        taken.set()

    holding = False

    def hold(command: Command) -> bool:
        nonlocal holding
        holding = holding or (command.collection == "devices" and command.name == "update")
        return True

    proxy.pass_on, proxy.held = hold, lambda: taken.wait() if holding and not taken.is_set() else None
    commit = asyncio.create_task(old.commit([Progress(ANN, 1, 1, 1, [])]))
    await take_over()
    with pytest.raises(FencedOut):
        await commit
    device = await new[0].device(ANN)
    assert device is not None
    assert device.offset == 9
    await old.close()
    await new[0].close()


async def test_a_server_that_was_away_longer_than_the_lease_is_served_on(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Nobody else took it: the node renews the lease and goes on."""
    storage = MongoStorage(mongo_server.url(database, LEASE + "&serverSelectionTimeoutMS=2000", through=proxy.port))
    await storage.open()
    await proxy.stop()
    group = [make.append("a", ["u/ann"])]
    deadline = time.monotonic() + LEASE_MS / 1000 * 1.5
    while time.monotonic() < deadline:
        with pytest.raises(StorageUnavailable):
            await storage.commit(group)
    await proxy.start()
    async with asyncio.timeout(10):
        while not group[0].message.seq:  # the driver notices a moment later; the caller tries the same group again
            with contextlib.suppress(StorageUnavailable):
                await storage.commit(group)
    assert group[0].message.seq == 1
    await storage.close()
