"""Several writers append to the same timelines (without a lease, by ``shared=True``): no gap, nothing lost or twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.mongo.fanout import in_order
from storage.mongo.lease import TOKEN_SHIFT
from storage.records import Append
from tests.storage.samples import Maker
from tests.storage_mongo.groups import check_laws
from tests.storage_mongo.processes import Writer
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy
from tests.support.mongo_server import MongoServer


async def _check(url: str, acked: set[int]) -> int:
    storage = MongoStorage(url)
    await storage.open()
    stored = await check_laws(storage, acked)
    await storage.close()
    return stored


@pytest.mark.parametrize("stores", [2, 4])
async def test_stores_of_one_process_append_at_once(database: str, stores: int) -> None:
    opened = [MongoStorage(mongo_server.url(database), shared=True) for _ in range(stores)]
    await asyncio.gather(*(storage.open() for storage in opened))

    async def write(number: int, storage: MongoStorage) -> list[Append]:
        make, chance, written = Maker(), random.Random(number), []
        for _ in range(10):
            make.id = make.id + 1_000_000 * (number + 1) if make.id == 0 else make.id
            group = [
                make.append(f"t{chance.randrange(2)}", ["u/ann", f"u/{n % 3}"], device=f"d{number}")
                for n in range(chance.choice((1, 5, 40)))
            ]
            await storage.commit(group)
            written += group
        return written

    written = [one for many in await asyncio.gather(*(write(n, s) for n, s in enumerate(opened))) for one in many]
    assert await check_laws(opened[0], (a.message.id for a in written)) == len(written)
    entries = {entry["_id"]: entry["mid"] for entry in await opened[0].collections.sync.find().to_list(None)}
    for append in written:  # what each commit said is what is stored
        for user, seq in zip(append.recipients, append.inbox_seqs, strict=True):
            assert entries[f"{user}\0{seq:016d}"] == append.message.id
    await asyncio.gather(*(storage.close() for storage in opened))


@pytest.mark.skipif(bool(mongo_server.EXTERNAL), reason="kills the server, which must be the test's own")
async def test_processes_append_while_the_server_is_killed(killable: MongoServer) -> None:
    url = killable.url("tideline", "serverSelectionTimeoutMS=500")
    writers = [await Writer.start(url, f"w{n}", first=n + 1, step=3, groups=40, seed=n, shared=True) for n in range(3)]
    for killed_after in (2, 7, 5, 9):
        await writers[killed_after % 3].lines(killed_after)
        await asyncio.to_thread(killable.restart)
    await asyncio.gather(*(writer.finish() for writer in writers))
    assert [writer.process.returncode for writer in writers] == [0, 0, 0]
    acked = set().union(*(writer.acked for writer in writers))
    assert await _check(url, acked) == len(acked)


async def test_an_answer_lost_while_another_writer_goes_on(database: str, proxy: MongoProxy) -> None:
    """Each attempt finds others' entries behind its own: those stay, and the rest is numbered after them."""
    one = MongoStorage(mongo_server.url(database, through=proxy.port), shared=True)
    other = MongoStorage(mongo_server.url(database), shared=True)
    await one.open()
    await other.open()
    mine, theirs = Maker(), Maker()
    theirs.id = 1_000_000
    for number in (1, 2, 1, 2):
        group = [mine.append(f"t{n % 2}", ["u/ann"], device="one") for n in range(6)]
        proxy.lose_write(number)
        with pytest.raises(StorageUnavailable):
            await one.commit(group)
        await other.commit([theirs.append(f"t{n % 2}", ["u/ann"], device="other") for n in range(3)])
        await one.commit(group)
    assert await check_laws(other) == 4 * 9
    await one.close()
    await other.close()


# --- publishers that move from one writer to another -----------------------------------------------------------------


@asynccontextmanager
async def _proxied(database: str, options: str = "") -> AsyncIterator[tuple[MongoStorage, MongoProxy]]:
    """A writer behind a proxy of its own; it may be closed, and its proxy stopped, before."""
    proxy = MongoProxy(*mongo_server.address())
    await proxy.start()
    storage = MongoStorage(mongo_server.url(database, options, through=proxy.port), shared=True)
    await storage.open()
    try:
        yield storage, proxy
    finally:
        await storage.close()
        await proxy.stop()


async def _crash_over(database: str, group: list[Append], writes: int) -> None:
    """A writer that is gone after so many of the group's writes; nobody is acknowledged."""
    left = writes

    def pass_on(command: Command) -> bool:
        nonlocal left
        left -= command.name in WRITES
        return left >= 0

    async with _proxied(database, "serverSelectionTimeoutMS=1000") as (storage, proxy):
        proxy.pass_on = pass_on
        with suppress(StorageUnavailable):
            await storage.commit(group)
            group.clear()  # it had fewer writes than that, and is complete
        await proxy.stop()


@pytest.mark.parametrize("seed", range(6))
async def test_publishers_that_move_on_from_crashed_writers_stay_in_order(database: str, seed: int) -> None:
    """Two publishers take turns; a writer crashes at any write, and they go on with the next one, which is acknowledged."""
    chance, make = random.Random(seed), Maker()

    def group() -> list[Append]:
        return [
            make.append(f"t{chance.randrange(2)}", chance.sample(["u/ann", "u/bob"], 2), device=f"d{chance.randrange(2)}")
            for _ in range(chance.choice((1, 3, 7)))
        ]

    acked: list[int] = []
    for _ in range(5):
        for _ in range(chance.randrange(3)):
            await _crash_over(database, group(), chance.randrange(4))
        async with _proxied(database) as (storage, _):
            for _ in range(2):
                one = group()
                await storage.commit(one)
                acked += [append.message.id for append in one]
    await _check(mongo_server.url(database, "tideline_lease_ms=300"), set(acked))


async def test_a_message_that_two_writers_finish_at_once_is_in_an_inbox_once(database: str) -> None:
    """One is held up between the store and the inboxes; the publisher moves on, and the other one finishes its messages."""
    async with _proxied(database) as (slow, proxy), _proxied(database) as (other, _):
        make, stored, go = Maker(), asyncio.Event(), asyncio.Event()

        def hold(command: Command) -> bool:
            if command == ("insert", "sync"):
                stored.set()
            return True

        proxy.pass_on, proxy.held = hold, lambda: go.wait() if stored.is_set() and not go.is_set() else None
        first = [make.append("a", ["u/ann", "u/bob"], device=f"d{n % 2}") for n in range(4)]
        committing = asyncio.create_task(slow.commit(first))
        await stored.wait()
        second = [make.append("a", ["u/ann"], device="d0"), make.append("b", ["u/ann", "u/new"], device="d0")]
        await other.commit(second)
        entries = [entry.message.id for entry in await other.read_inbox("u/ann", 0, 10) if entry.message is not None]
        assert entries == [1, 3, 5, 6]  # of the other publisher nothing had to be finished
        go.set()
        await committing
        assert [list(append.inbox_seqs) for append in [*first, *second]] == [[1, 1], [5, 3], [2, 2], [6, 4], [3], [4, 1]]
        assert await check_laws(other, range(1, 7)) == 6


@pytest.mark.parametrize("seed", range(20))
def test_in_order_agrees_with_conversations_and_writers(seed: int) -> None:
    """Whatever the writers' clocks say: of any messages that were stored one after the other."""
    chance = random.Random(seed)
    ids, seqs, stored = [chance.randrange(1000) for _ in range(3)], dict.fromkeys("ab", 0), []
    for _ in range(12):
        writer, topic = chance.randrange(3), chance.choice("ab")
        ids[writer] += chance.randrange(1, 500)
        seqs[topic] += 1
        stored.append({"mid": ids[writer], "v": writer + 1 << TOKEN_SHIFT | 1, "topic": topic, "seq": seqs[topic]})
    found = in_order(chance.sample(stored, len(stored)))
    assert sorted(map(str, found)) == sorted(map(str, stored))
    for topic in "ab":
        assert [d["seq"] for d in found if d["topic"] == topic] == list(range(1, seqs[topic] + 1))
    for writer in range(3):
        mine = [d["mid"] for d in found if d["v"] >> TOKEN_SHIFT == writer + 1]
        assert mine == sorted(mine)
