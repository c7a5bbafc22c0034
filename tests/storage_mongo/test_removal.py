"""Removal of old entries beside writers that are slow."""

from __future__ import annotations

import time

import pytest

from storage.mongo import MongoStorage
from storage.mongo import commit as commits
from storage.records import Operation
from tests.storage.samples import Maker
from tests.storage_mongo.test_guards import two
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy


def _now() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("kind", ["conversation", "inbox"])
async def test_what_is_young_stays(database: str, make: Maker, kind: str) -> None:
    """Whatever a job asks for: its writer may be about to be acknowledged for it."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"], time=_now() - 3_600_000 * (n < 3)) for n in range(6)])
    if kind == "conversation":
        assert await storage.prune_conversation("a", 6) == 3
        assert await storage.conversation_bounds("a") == (4, 6)
    else:
        assert await storage.prune_inbox("u/ann", 6) == 3
        assert await storage.inbox_bounds("u/ann") == (4, 6)
    await storage.close()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_what_is_young_stays_though_the_databases_clock_was_set(database: str, make: Maker, hours: int) -> None:
    """Another primary's clock is wrong by an hour: the nodes come near to it little by little, and stamp by that."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    nodes_time = _now() - hours * 3_600_000
    await storage.commit([make.append("a", ["u/ann"], time=nodes_time - 60_000 * (n < 3)) for n in range(6)])
    assert await storage.prune_conversation("a", 6, now=nodes_time) == 3
    assert await storage.prune_inbox("u/ann", 6, now=nodes_time) == 3
    await storage.close()


async def test_a_time_that_is_ahead_spares_nothing(database: str, make: Maker) -> None:
    """A node's clock was wrong by years: what it has stamped would never be removed."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"], time=_now() + 10 * 365 * 86_400_000) for _ in range(6)])
    assert await storage.prune_conversation("a", 6) == 5
    assert await storage.prune_inbox("u/ann", 6) == 5
    await storage.close()


async def test_an_entry_whose_place_was_removed_meanwhile_gets_another(
    database: str, proxy: MongoProxy, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer was so slow that others went over the place where it writes, and retention over theirs."""
    monkeypatch.setattr(commits, "_SLOW", 0.0)
    async with two(database, proxy) as (held, other):
        await held.storage.commit([make.append("a", ["u/ann"])])
        late = make.append("a", ["u/ann", "u/bob"])
        group: list[Operation] = [late]
        await held.commit(group, "sync")
        await other.commit([make.append("b", ["u/ann"]) for _ in range(3)])
        assert await other.prune_inbox("u/ann", 4) == 3
        await held.thaw()
        assert list(late.inbox_seqs) == [5, 1]
        entries = [(entry.seq, entry.message and entry.message.id) for entry in await other.read_inbox("u/ann", 0, 9)]
        assert entries[-2:] == [(4, 5), (5, late.message.id)]
        assert await other.inbox_bounds("u/ann") == (4, 5)


@pytest.mark.parametrize("limit", [2, 9], ids=["a page that is to go whole", "one that is to go in part"])
async def test_a_page_that_another_node_is_removing_begins_behind_it(database: str, make: Maker, limit: int) -> None:
    """Its entries go in no order: what is left of them is not read, and what follows is."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"]) for _ in range(6)])
    for registry, entries in (("users", storage.collections.sync), ("conversations", storage.collections.store)):
        await getattr(storage.collections, registry).update_many({}, {"$set": {"floor": 4}})
        await entries.delete_many({"seq": {"$in": [2, 4]}})
    assert [entry.seq for entry in await storage.read_inbox("u/ann", 0, limit)] == [5, 6]
    assert [message.seq for message in await storage.read_conversation("a", limit=limit)] == [5, 6]
    newest_first = await storage.read_conversation("a", before=6, limit=limit, newest_first=True)
    assert [message.seq for message in newest_first] == [5]
    assert await storage.inbox_bounds("u/ann") == (5, 6)
    assert await storage.conversation_bounds("a") == (5, 6)
    await storage.close()
