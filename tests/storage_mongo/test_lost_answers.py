"""The answer to any one write of a group is lost: the same group again gives what it would have given, nothing twice."""

from __future__ import annotations

import pytest

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Operation, PutRow
from tests.storage.samples import Maker, results
from tests.storage_mongo.groups import check_laws, content, prepare, told
from tests.support import mongo_server
from tests.support.mongo_proxy import LOSABLE, MongoProxy

COLLECTIONS = sorted(LOSABLE - {"late"})
"""What a group of every kind writes, where no message of another node is in it."""


async def _open(database: str, proxy: MongoProxy, retries: str) -> MongoStorage:
    storage = MongoStorage(mongo_server.url(database, "serverSelectionTimeoutMS=5000&" + retries, through=proxy.port))
    await storage.open()
    return storage


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_any_answer_lost(database: str, proxy: MongoProxy, retries: str, collection: str) -> None:
    other = mongo_server.new_database()
    storage = await _open(other, proxy, retries)
    group = await prepare(storage, Maker())
    await storage.commit(group)
    expected, expected_content = results(group), await content(storage)
    await storage.close()
    await mongo_server.drop(other)

    storage = await _open(database, proxy, retries)
    group = await prepare(storage, Maker())
    proxy.lose_write(1, collection)
    if not await told(storage, group):
        await storage.commit(group)
    else:
        assert not proxy.lose_retries
    assert [command.collection for command in proxy.lost] == [collection]
    assert results(group) == expected
    assert await content(storage) == expected_content
    await check_laws(storage)
    await storage.close()


@pytest.mark.parametrize("size", [1, 5, 1100])
async def test_answers_lost_again_and_again(database: str, proxy: MongoProxy, retries: str, make: Maker, size: int) -> None:
    storage = await _open(database, proxy, retries)
    await storage.commit([make.append("t0", ["u/ann"])])
    group = [make.append(f"t{n % 3}", ["u/ann", f"u/{n % 5}"]) for n in range(size)]
    for number in (1, 1, 2, 2, 3):
        proxy.lose_write(number)
        if await told(storage, group):
            break
    proxy.lose_write(0)
    if group[-1].message.seq == 0:
        await storage.commit(group)
    await storage.commit([make.append("t1", ["u/ann"])])
    assert await check_laws(storage) == size + 2
    assert [next(iter(a.inbox_seqs)) for a in group] == list(range(2, size + 2))
    await storage.close()


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_another_group_after_a_lost_answer_finds_the_first_one_finished(
    database: str, proxy: MongoProxy, retries: str, make: Maker, number: int
) -> None:
    storage = await _open(database, proxy, retries)
    first = [make.append("a", ["u/ann"]) for _ in range(3)]
    proxy.lose_write(number)
    if await told(storage, first):
        assert not proxy.lose_retries
    assert len(proxy.lost) == 1
    second = [*first[1:], make.append("a", ["u/ann"])]
    await storage.commit(second)
    assert [(a.message.seq, list(a.inbox_seqs)) for a in [*first, second[-1]]] == [(n, [n]) for n in (1, 2, 3, 4)]
    assert await check_laws(storage, [1, 2, 3, 4]) == 4
    await storage.close()


async def test_a_group_that_was_never_begun_is_dropped_for_another(
    database: str, proxy: MongoProxy, retries: str, make: Maker
) -> None:
    storage = await _open(database, proxy, retries)
    await storage.commit([make.append("a")])
    await proxy.stop()
    with pytest.raises(StorageUnavailable):
        await storage.commit([make.append("never seen")])
    await proxy.start()
    await storage.commit([make.append("a")])
    assert await storage.conversation_bounds("a") == (1, 2)
    assert await storage.conversation_bounds("never seen") == (1, 0)
    await storage.close()


async def test_a_row_whose_answer_was_lost_is_found_beneath_what_others_wrote_since(
    database: str, proxy: MongoProxy, retries: str
) -> None:
    storage, other = await _open(database, proxy, retries), MongoStorage(mongo_server.url(database))
    await other.open()
    group: list[Operation] = [PutRow("t", "p", "a", b"mine", expected=0), PutRow("t", "p", "b", b"mine")]
    proxy.lose_write(1, "rows")
    acknowledged = await told(storage, group)
    for number in range(3):
        await other.commit([PutRow("t", "p", key, b"theirs %d" % number) for key in "ab"])
    if not acknowledged:
        await storage.commit(group)
    assert len(proxy.lost) == 1
    assert [op.error for op in group] == [None, None]
    assert [row.value for row in await storage.rows("t", "p")] == [b"theirs 2"] * 2
    await other.close()
    await storage.close()
