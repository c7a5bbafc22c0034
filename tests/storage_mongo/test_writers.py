"""Several writers append to the same timelines (without a lease, by ``shared=True``): no gap, nothing lost or twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Append
from tests.storage.samples import Maker
from tests.storage_mongo.groups import check_laws
from tests.storage_mongo.processes import Writer
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
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
