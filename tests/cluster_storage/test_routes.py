"""The routes: one timeline of changes that every node reads in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from storage.cluster import ADD, ENDED, HELD, LISTEN, REMOVE, UNLISTEN, Change, Route
from storage.errors import FencedOut, Superseded
from storage.interface import Storage
from storage.records import Announce, CloseSession, DeviceKey, OpenSession, Operation, Progress, Release, Unsubscribe
from tests.cluster_storage.backends import ClusterBackend, part_of
from tests.storage.samples import Maker, opened, subscribe

ANN, BOB = DeviceKey("u/ann", "phone"), DeviceKey("u/bob", "pad")


async def changes_after(storage: Storage, after: int) -> list[Change]:
    routes = await part_of(storage).routes_after(after)
    assert [route.seq for route in routes] == list(range(after + 1, after + 1 + len(routes)))
    return [change for route in routes for change in route.changes]


async def end(storage: Storage) -> int:
    return (await part_of(storage).routes_end())[1]


async def told_by(storage: Storage, *group: Operation) -> list[Change]:
    before = await end(storage)
    await storage.commit(group)
    assert all(op.error is None for op in group), [op.error for op in group]
    return await changes_after(storage, before)


async def test_a_connection_and_its_filters_are_told_once(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    me = part_of(one).me.token
    assert await part_of(other).routes_end() == (1, 0)
    await one.commit([opened(ANN, 5), subscribe(ANN, "a", "b/#", epoch=5)])
    expected = [Change(HELD, *ANN, "", 5, me), Change(ADD, *ANN, "a", 5), Change(ADD, *ANN, "b/#", 5)]
    assert await changes_after(other, 0) == expected
    assert {route.writer for route in await part_of(other).routes_after(0)} == {me}
    assert await told_by(one, subscribe(ANN, "a", "b/#", epoch=5, options=2)) == []
    assert await told_by(one, Progress(ANN, 5, 0, 0, [])) == []
    assert await told_by(one, Unsubscribe(ANN, 5, ["a", "never"])) == [Change(REMOVE, *ANN, "a", 5)]
    assert await told_by(one, CloseSession(ANN, 5, False)) == [Change(HELD, *ANN, "", 5, 0)]


async def test_a_device_goes_from_node_to_node_with_its_filters(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    await one.commit([opened(ANN, 1), subscribe(ANN, "a")])
    assert await told_by(other, opened(ANN, 2)) == [Change(HELD, *ANN, "", 2, part_of(other).me.token)]
    device = await one.device(ANN)
    assert device is not None
    assert (device.epoch, device.node, list(device.subscriptions)) == (2, part_of(other).me.token, ["a"])


async def test_a_filter_that_goes_and_comes_in_one_group_stays(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await one.commit([opened(ANN), subscribe(ANN, "a")])
    assert await told_by(one, Unsubscribe(ANN, 1, ["a"]), subscribe(ANN, "a")) == []


async def test_a_clean_start_ends_the_earlier_session_and_keeps_what_the_new_one_has(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await one.commit([opened(ANN), subscribe(ANN, "old", "both")])
    held = Change(HELD, *ANN, "", 2, part_of(one).me.token)
    told = await told_by(one, opened(ANN, 2, clean=True), subscribe(ANN, "both", "new", epoch=2))
    assert told == [held, Change(ADD, *ANN, "new", 2), Change(REMOVE, *ANN, "old", 2)]


async def test_an_opening_that_found_no_session_goes_on_with_the_one_that_is_there_by_then(cluster: ClusterBackend) -> None:
    """! And says that it did not make it; the will of the other connection is for whoever opened the session."""
    one, other = await cluster.node(), await cluster.node()
    made = OpenSession(ANN, 4, False, 60, b"will", at=1000)
    await one.commit([made, subscribe(ANN, "a", epoch=4)])
    late = OpenSession(ANN, 7, False, 60, at=1000)
    assert await told_by(other, late) == [Change(HELD, *ANN, "", 7, part_of(other).me.token)]
    assert (made.created, made.overtaken, late.created, late.overtaken) == (True, None, False, b"will")
    device = await one.device(ANN)
    assert device is not None
    assert (device.epoch, device.created_at, device.will, list(device.subscriptions)) == (7, 1000, None, ["a"])
    await other.commit([again := OpenSession(ANN, 8, False, 60, at=1001)])
    assert (again.created, again.overtaken) == (False, None)


async def test_an_opening_that_is_made_again_says_what_it_said(cluster: ClusterBackend) -> None:
    """! As where its answer was lost: the session is its own, or was there before."""
    one = await cluster.node()
    await one.commit([OpenSession(ANN, 4, False, 60, at=1000)])
    await one.commit([again := OpenSession(ANN, 4, False, 60, at=1000)])
    await one.commit([later := OpenSession(ANN, 5, False, 60, at=1001)])
    assert (again.created, later.created) == (True, False)


async def test_the_end_of_a_session_is_told(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await one.commit([opened(ANN, 3), subscribe(ANN, "a", epoch=3)])
    assert await told_by(one, CloseSession(ANN, 3, True)) == [Change(REMOVE, *ANN, "a", 3), Change(ENDED, *ANN, "", 3)]
    assert await told_by(one, CloseSession(ANN, 3, True)) == []


async def test_what_a_node_announces_comes_additions_first(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    me = part_of(one).me.token
    more = [Change(LISTEN, filter="x", node=me), Change(HELD, "u/c", "clean", node=me)]
    less = [Change(UNLISTEN, filter="y", node=me), Change(HELD, "u/d", "clean", node=0)]
    assert await told_by(one, Announce([less[0], more[0], less[1], more[1]])) == [*more, *less]


async def test_additions_stand_before_the_session_and_removals_behind(cluster: ClusterBackend) -> None:
    """Two entries, since a node that ends between the two must have told too much."""
    one = await cluster.node()
    await one.commit([opened(ANN), opened(BOB), subscribe(ANN, "a")])
    before = await end(one)
    await one.commit([Unsubscribe(ANN, 1, ["a"]), subscribe(BOB, "b")])
    routes = await part_of(one).routes_after(before)
    assert [[change.kind for change in route.changes] for route in routes] == [[ADD], [REMOVE]]


@pytest.mark.parametrize("deletes", [False, True])
async def test_who_was_refused_a_device_changes_nothing_of_it_with_the_epoch_that_the_other_node_has_it_with(
    cluster: ClusterBackend, deletes: bool
) -> None:
    one, other = await cluster.node(), await cluster.node()
    await one.commit([opened(ANN, 1), subscribe(ANN, "a")])
    await other.commit([opened(ANN, 2)])
    late: Sequence[Operation] = [
        opened(ANN, 2),
        subscribe(ANN, "b", epoch=2),
        Unsubscribe(ANN, 2, ["a"]),
        Progress(ANN, 2, 1, 1, []),
        CloseSession(ANN, 2, deletes),
    ]
    await one.commit(late)
    assert [type(op.error) for op in late] == [Superseded] * len(late)
    device = await one.device(ANN)
    assert device is not None
    assert (device.epoch, device.node, device.offset) == (2, part_of(other).me.token, 0)
    assert list(device.subscriptions) == ["a"]


async def test_what_a_node_is_too_late_for_is_superseded_and_changes_nothing(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    await one.commit([opened(ANN, 1), subscribe(ANN, "a"), make.append("t", received=(ANN, 9))])
    await other.commit([opened(ANN, 2)])
    before = await end(one)
    late: Sequence[Operation] = [
        opened(ANN, 1),
        opened(ANN, 2),
        subscribe(ANN, "b"),
        Unsubscribe(ANN, 1, ["a"]),
        Progress(ANN, 1, 1, 1, []),
        CloseSession(ANN, 1, True),
        Release(ANN, 9),
        make.append("t", ["u/ann"], received=(ANN, 10)),
    ]
    await one.commit(late)
    assert [type(op.error) for op in late] == [Superseded] * len(late)
    told = await changes_after(one, before)  # it may have told that it has the device, and then how it is
    assert {change.kind for change in told} <= {HELD}
    assert [change.node for change in told[-1:]] in ([], [part_of(other).me.token])
    device = await one.device(ANN)
    assert device is not None
    assert (device.epoch, device.node, device.offset) == (2, part_of(other).me.token, 0)
    assert (list(device.subscriptions), device.received) == (["a"], {9})
    assert await one.conversation_bounds("t") == (1, 1)


@pytest.mark.parametrize("known", [True, False])
async def test_a_session_that_ended_is_not_opened_by_who_is_too_late(cluster: ClusterBackend, known: bool) -> None:
    """Whether there was one before, or the one that ended had come in the same group."""
    one, other = await cluster.node(), await cluster.node()
    if known:
        await one.commit([opened(ANN, 1)])
    await other.commit([opened(ANN, 2), CloseSession(ANN, 2, True)])
    late = opened(ANN, 2)
    await one.commit([late])
    assert isinstance(late.error, Superseded)
    assert await one.device(ANN) is None
    await one.commit([again := opened(ANN, await part_of(one).time())])
    assert again.error is None


async def test_three_nodes_append_without_a_gap_and_read_one_order(cluster: ClusterBackend) -> None:
    nodes = [await cluster.node() for _ in range(3)]
    rounds = 15

    async def write(number: int, storage: Storage) -> None:
        for n in range(rounds):
            await storage.commit([Announce([Change(LISTEN, filter=f"{number}/{n}", node=part_of(storage).me.token)])])

    await asyncio.gather(*(write(number, storage) for number, storage in enumerate(nodes)))
    read: list[list[Route]] = []
    for storage in nodes:
        routes: list[Route] = []
        while page := await part_of(storage).routes_after(len(routes), 7):
            assert len(page) <= 7
            routes += page
        read.append(routes)
    assert [route.seq for route in read[0]] == list(range(1, len(read[0]) + 1))
    assert read[0] == read[1] == read[2]
    told = [change.filter for route in read[0] for change in route.changes]
    for number in range(3):
        assert [name for name in told if name.startswith(f"{number}/")] == [f"{number}/{n}" for n in range(rounds)]


async def test_what_one_node_committed_the_others_read_at_once(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    for n in range(20):
        await one.commit([Announce([Change(LISTEN, filter=str(n), node=1)])])
        assert [change.filter for change in await changes_after(other, n)] == [str(n)]


async def test_young_routes_are_not_trimmed(cluster: ClusterBackend) -> None:
    """! Also where all have applied them."""
    one = await cluster.node()
    for n in range(3):
        await one.commit([Announce([Change(LISTEN, filter=str(n), node=1)])])
    await part_of(one).beat(done=0, routes=3, sessions=0)
    assert await part_of(one).trim_routes(9) == 0
    assert await part_of(one).routes_end() == (1, 3)


async def test_old_routes_that_all_have_applied_are_trimmed(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    for n in range(5):
        await one.commit([Announce([Change(LISTEN, filter=str(n), node=1)])])
    await cluster.pass_time(60.0)
    await part_of(one).beat(done=0, routes=5, sessions=0)
    assert await part_of(one).trim_routes(9) == 0
    await part_of(other).beat(done=0, routes=3, sessions=0)
    assert await part_of(one).trim_routes(3) == 2
    assert await part_of(one).trim_routes(9) == 1
    assert await part_of(other).routes_end() == (4, 5)
    assert [change.filter for change in await changes_after(other, 3)] == ["3", "4"]
    with pytest.raises(FencedOut, match="start this node anew"):
        await part_of(other).routes_after(2)
    await part_of(other).beat(done=0, routes=5, sessions=0)
    assert await part_of(one).trim_routes(9) == 1  # the last one tells where the routes end
    await one.commit([Announce([Change(LISTEN, filter="5", node=1)])])
    assert await part_of(other).routes_end() == (5, 6)
