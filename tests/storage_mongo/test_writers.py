"""Several nodes append to the same timelines: no gap, nothing lost or twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.mongo.turns import unpack_turns
from storage.records import Append
from tests.storage.samples import Maker
from tests.storage_mongo.groups import check_laws, fail_over, finish_for
from tests.storage_mongo.processes import Writer
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy
from tests.support.mongo_server import MongoServer
from tests.support.seeds import seeds


async def _check(url: str, acked: set[int]) -> int:
    storage = MongoStorage(url)
    await storage.open()
    await fail_over(storage)
    stored = await check_laws(storage, acked)
    await storage.close()
    return stored


@pytest.mark.parametrize("stores", [2, 4])
async def test_stores_of_one_process_append_at_once(database: str, stores: int) -> None:
    opened = [MongoStorage(mongo_server.url(database)) for _ in range(stores)]
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
    writers = [await Writer.start(url, f"w{n}", first=n + 1, step=3, groups=20, seed=n) for n in range(3)]
    for killed_after in (2, 7, 5, 9):
        await writers[killed_after % 3].lines(killed_after)
        await asyncio.to_thread(killable.restart)
    await asyncio.gather(*(writer.finish() for writer in writers))
    assert [writer.process.returncode for writer in writers] == [0, 0, 0]
    acked = set().union(*(writer.acked for writer in writers))
    assert await _check(url, acked) == len(acked)


async def test_an_answer_lost_while_another_writer_goes_on(database: str, proxy: MongoProxy) -> None:
    """Each attempt finds others' entries behind its own: those stay, and the rest is numbered after them."""
    proxy.older = True  # two writes, of which either answer is lost
    one = MongoStorage(mongo_server.url(database, through=proxy.port))
    other = MongoStorage(mongo_server.url(database))
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
async def _proxied(database: str, options: str = "", *, older: bool = True) -> AsyncIterator[tuple[MongoStorage, MongoProxy]]:
    """A writer behind a proxy of its own; it may be closed, and its proxy stopped, before. ``older``: what it writes to the
    inboxes is a command of its own."""
    proxy = MongoProxy(*mongo_server.address())
    proxy.older = older
    await proxy.start()
    storage = mongo_server.PatientStorage(mongo_server.url(database, options, through=proxy.port))
    await storage.open()
    try:
        yield storage, proxy
    finally:
        await storage.close()
        await proxy.stop()


async def _crash_over(database: str, make: Maker, group: Callable[[], list[Append]], writes: int) -> int:
    """A writer that is gone after so many of a group's writes; nobody is acknowledged. Its token."""
    left = writes

    def pass_on(command: Command) -> bool:
        nonlocal left
        left -= command.name in WRITES
        return left >= 0

    async with _proxied(database, "serverSelectionTimeoutMS=1000", older=bool(writes % 2)) as (storage, proxy):
        token, make.number = storage._state.token, storage._state.number
        proxy.pass_on = pass_on
        with suppress(StorageUnavailable):
            await storage.commit(group())
        await proxy.stop()
    return token


@pytest.mark.parametrize("seed", seeds(0, 3, more=[1, 2, 4, 5]))
async def test_publishers_that_move_on_from_crashed_writers_stay_in_order(database: str, seed: int) -> None:
    """Two publishers take turns; a writer crashes at any write, and they go on with the next one, which finishes it first."""
    chance, make = random.Random(seed), Maker()

    def group() -> list[Append]:
        return [
            make.append(f"t{chance.randrange(2)}", chance.sample(["u/ann", "u/bob"], 2), device=f"d{chance.randrange(2)}")
            for _ in range(chance.choice((1, 3, 7)))
        ]

    acked: list[int] = []
    for _ in range(5):
        crashed = [await _crash_over(database, make, group, chance.randrange(4)) for _ in range(chance.randrange(2))]
        async with _proxied(database) as (storage, _):
            make.number = storage._state.number
            for token in crashed:
                await finish_for(storage, token)
            for _ in range(2):
                one = group()
                await storage.commit(one)
                acked += [append.message.id for append in one]
    await _check(mongo_server.url(database), set(acked))


async def test_a_message_that_two_writers_finish_at_once_is_in_an_inbox_once(database: str) -> None:
    """One is held up between the store and the inboxes, and two others, which take it for dead, finish its messages at once."""
    async with _proxied(database) as (slow, proxy), _proxied(database) as (other, _), _proxied(database) as (third, _):
        make, stored, go = Maker(), asyncio.Event(), asyncio.Event()

        def hold(command: Command) -> bool:
            if command == ("insert", "sync"):
                stored.set()
            return True

        proxy.pass_on, proxy.held = hold, lambda: go.wait() if stored.is_set() and not go.is_set() else None
        first = [make.append("a", ["u/ann", "u/bob"], device=f"d{n % 2}") for n in range(4)]
        committing = asyncio.create_task(slow.commit(first))
        await stored.wait()
        assert sum(await asyncio.gather(*(finish_for(one, slow._state.token) for one in (other, third)))) == 8
        second = [make.append("a", ["u/ann"], device="d0"), make.append("b", ["u/ann", "u/new"], device="d0")]
        await other.commit(second)
        go.set()
        await committing
        assert [list(append.inbox_seqs) for append in [*first, *second]] == [[1, 1], [2, 2], [3, 3], [4, 4], [5], [6, 1]]
        assert await finish_for(third, slow._state.token) == 0
        assert await check_laws(other, range(1, 7)) == 6


# --- many on one inbox -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["one inbox", "inboxes of their own"])
@pytest.mark.parametrize("count", seeds(2, 16, more=[4, 8]))
async def test_many_writers_go_on(database: str, count: int, apart: bool) -> None:
    """None of them starves: each commits its groups while the others do, however often they are in each other's way."""
    writers = [MongoStorage(mongo_server.url(database)) for _ in range(count)]
    await asyncio.gather(*(storage.open() for storage in writers))
    left = dict.fromkeys(range(count), 3)
    groups: list[list[Append]] = []

    async def write(number: int, storage: MongoStorage) -> None:
        make = Maker()
        make.id = number * 1_000_000
        while any(left.values()):  # those that are done stay in the way of the others
            user = f"u/{number}" if apart else "u/ann"
            group = [make.append(f"t/{number}", [user], device=f"d{number}") for _ in range(3)]
            await storage.commit(group)
            groups.append(group)
            left[number] = max(0, left[number] - 1)

    async with asyncio.timeout(100):
        await asyncio.gather(*(write(number, storage) for number, storage in enumerate(writers)))
    acknowledged = [append.message.id for group in groups for append in group]
    assert await check_laws(writers[0], acknowledged) == len(acknowledged)
    await asyncio.gather(*(storage.close() for storage in writers))


async def test_who_is_always_too_late_goes_on_while_others_do(database: str) -> None:
    """However often the place of its entry is taken: that is no key which cannot be seen."""
    async with _proxied(database) as (one, through), _proxied(database) as (other, _):
        mine, theirs = Maker(), Maker()
        theirs.id = 1_000_000
        tries, late = 0, False

        def count(command: Command) -> bool:
            nonlocal tries, late
            late = command == ("insert", "sync") and tries < 45
            tries += late
            return True

        through.pass_on = count
        through.held = lambda: other.commit([theirs.append("b", ["u/ann"], device="other")]) if late else None
        await one.commit([mine.append("a", ["u/ann"], device="one")])
        assert tries == 45
        assert await check_laws(other) == 46


async def test_two_that_have_met_in_an_inbox_look_before_they_write(database: str) -> None:
    """And say in their entries whose turn is next, so that no insert comes too late any more."""
    async with _proxied(database) as (one, through), _proxied(database) as (other, _):
        numbers = [storage._state.number for storage in (one, other)]
        mine, theirs = Maker(), Maker()
        mine.id, theirs.id = ((1 << 30) + (number or 0) << 12 for number in numbers)
        inserts = 0

        def count(command: Command) -> bool:
            nonlocal inserts
            inserts += command == ("insert", "sync")
            return True

        through.pass_on = count
        for late in (0, 1, 0, 0):
            inserts = 0
            await one.commit([mine.append("a", ["u/ann"], device="one") for _ in range(2)])
            assert inserts == 1 + late
            await other.commit([theirs.append("b", ["u/ann"], device="other") for _ in range(2)])
        entries = await one.collections.sync.find().sort("seq", 1).to_list(None)
        told = [unpack_turns(entry["turns"]) if "turns" in entry else None for entry in entries]
        assert told[-2:] == [None, numbers], "the last entry of a group says who wrote longest ago"
        await one.commit([mine.append("a", ["u/ann", "u/bob"], device="one")])
        bob = await one.collections.sync.find_one({"user": "u/bob"})
        assert bob is not None
        assert "turns" not in bob
        assert await check_laws(one) == 17
