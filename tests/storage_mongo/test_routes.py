"""The routes in MongoDB: lost answers, writers that were marked dead, and what a look costs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from storage.cluster import ADD, Change
from storage.errors import FencedOut, StorageUnavailable
from storage.mongo.joining import mark_dead
from storage.mongo.node import node_key, node_of
from tests.storage_mongo.members import Member, member
from tests.support.mongo_proxy import Command, MongoProxy


def add(name: str) -> list[Change]:
    return [Change(ADD, "u/ann", "phone", name, 1)]


async def filters(one: Member) -> list[str]:
    """All that is in the routes, which have no gap."""
    routes = await one.routes.after(0, 10_000)
    assert [route.seq for route in routes] == list(range(1, len(routes) + 1))
    assert len(routes) == await one.collections.routes.count_documents({})
    return [change.filter for route in routes for change in route.changes]


async def test_three_append_at_once_without_a_gap(database: str) -> None:
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(database)) for _ in range(3)]

        async def write(number: int, one: Member) -> None:
            for n in range(20):
                await one.routes.append(add(f"{number} {n}"))

        await asyncio.gather(*(write(number, one) for number, one in enumerate(members)))
        told = await filters(members[0])
        assert told == await filters(members[1]) == await filters(members[2])
        assert len(told) == 60
        for number in range(3):
            assert [name for name in told if name.startswith(f"{number} ")] == [f"{number} {n}" for n in range(20)]


async def test_appends_at_once_of_one_node_share_an_entry(database: str) -> None:
    async with member(database) as one:
        await asyncio.gather(*(one.routes.append(add(str(n))) for n in range(50)))
        assert await filters(one) == [str(n) for n in range(50)]
        assert await one.routes.end() == (1, 1)


async def test_an_entry_whose_answer_was_lost_stands_and_the_next_goes_behind_it(database: str, proxy: MongoProxy) -> None:
    async with member(database, through=proxy.port) as one:
        await one.routes.append(add("a"))
        proxy.lose_write(1, "routes")
        with pytest.raises(StorageUnavailable):
            await one.routes.append(add("b"))
        await one.routes.append(add("b"))  # as the caller does: no harm
        await one.routes.append(add("c"))
        assert await filters(one) == ["a", "b", "b", "c"]


async def test_what_a_node_sent_before_it_was_marked_dead_never_stands_behind_it(database: str, proxy: MongoProxy) -> None:
    """It is frozen with an append on its way. Others mark it, and tell that they have its devices; only then it wakes."""
    async with member(database, through=proxy.port, lease_ms=400) as frozen, member(database, lease_ms=400) as other:
        await frozen.routes.append(add("before"))
        sent, thaw = asyncio.Event(), asyncio.Event()

        def watch(command: Command) -> bool:
            if command.name == "insert" and command.collection == "routes":
                sent.set()
            return True

        proxy.pass_on, proxy.held = watch, lambda: thaw.wait() if sent.is_set() and not thaw.is_set() else None
        late = asyncio.create_task(frozen.routes.append(add("late")))
        await sent.wait()
        await asyncio.sleep(0.4)  # not a wait: the lease's time, in which it beats no more
        seen = await other.collections.nodes.find_one({"_id": node_key(frozen.node.token)})
        assert seen is not None
        assert await mark_dead(other.collections.nodes, node_of(seen))
        await other.routes.append(add("taken"))
        thaw.set()
        with pytest.raises(FencedOut):
            await late
        assert await filters(other) == ["before", "taken"]


async def test_a_look_that_finds_nothing_is_one_read_by_key(database: str, proxy: MongoProxy) -> None:
    async with member(database, through=proxy.port) as one:
        for n in range(3):
            await one.routes.append(add(str(n)))
        proxy.bodies = []
        assert await one.routes.after(3, 1000) == []
        (find,) = [body for body in proxy.bodies if "find" in body]
        assert (find["find"], find["filter"]) == ("routes", {"_id": f"{4:016d}"})
        assert find["readConcern"]["level"] == "linearizable"
        assert find["limit"] == 1


async def test_pages_follow_each_other(database: str) -> None:
    async with member(database) as one:
        for n in range(10):
            await one.routes.append(add(str(n)))
        seen: list[str] = []
        while page := await one.routes.after(len(seen), 4):
            assert len(page) <= 4
            seen += [change.filter for route in page for change in route.changes]
        assert seen == [str(n) for n in range(10)]


async def test_who_lacks_what_was_removed_is_told(database: str) -> None:
    async with member(database) as one:
        for n in range(3):
            await one.routes.append(add(str(n)))
        await one.collections.routes.delete_many({"seq": {"$lt": 3}})
        with pytest.raises(FencedOut, match="from 2 on"):
            await one.routes.after(1, 10)
        assert len(await one.routes.after(2, 10)) == 1


async def test_an_entry_that_a_crashed_server_had_not_written_is_missed_by_nobody(database: str) -> None:
    """It was seen before it was durable, and nobody was acknowledged for it."""
    async with member(database) as one:
        for n in range(3):
            await one.routes.append(add(str(n)))
        assert await one.routes.end() == (1, 3)
        await one.collections.routes.delete_one({"seq": 3})
        assert await one.routes.after(2, 10) == []
        await one.routes.append(add("again"))
        assert await filters(one) == ["0", "1", "again"]


async def test_more_changes_than_fit_into_one_entry_go_into_several(database: str) -> None:
    """A thousand sessions that end at once, or a burst of long filters."""
    async with member(database) as one:
        long = [Change(ADD, "u/ann", "phone", f"{n:05}{'x' * 60_000}", 1) for n in range(300)]
        await asyncio.gather(one.routes.append(long[:150]), one.routes.append(long[150:]))
        assert await filters(one) == [change.filter for change in long]
        assert (await one.routes.end())[1] > 1
