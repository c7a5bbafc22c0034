"""Who is there: joining, beats, marking dead, settling, and what one node at a time does."""

from __future__ import annotations

import pytest

from storage.cluster import Node, Parcel
from storage.errors import FencedOut, StorageUnavailable, StorageUnusable, Superseded
from storage.interface import Storage
from storage.records import CloseSession, Device, DeviceKey, Progress
from tests.cluster_storage.backends import ClusterBackend, ends, part_of
from tests.storage.samples import Maker, opened

ANN = DeviceKey("u/ann", "phone")


async def seen_by(storage: Storage) -> dict[int, Node]:
    return {node.token: node for node in await part_of(storage).nodes()}


async def marked(observer: Storage, dead: Storage) -> None:
    """``observer`` marks the other one dead, as of the beat that it sees now."""
    assert await part_of(observer).mark_dead((await seen_by(observer))[part_of(dead).me.token])


async def test_nodes_see_each_other_with_what_they_said_last(cluster: ClusterBackend) -> None:
    one, other = await cluster.node("one"), await cluster.node("other")
    me, they = part_of(one).me, part_of(other).me
    assert me.number != they.number
    assert me.token < they.token
    await part_of(one).beat(done=7, routes=3, sessions=2)
    known = (await seen_by(other))[me.token]
    assert (known.name, known.state, known.done, known.routes, known.sessions) == ("one", "up", 7, 3, 2)
    again = await part_of(one).beat(done=5, routes=4, sessions=2)
    assert again.beat > known.beat
    assert again.done == 7  # it never goes back
    assert list(await seen_by(one)) == list(await seen_by(other)) == [me.token, they.token]


async def test_a_node_that_leaves_is_gone_and_its_number_free(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    left = part_of(one).me
    await one.close()
    assert list(await seen_by(other)) == [part_of(other).me.token]
    next_ = part_of(await cluster.node()).me
    assert next_.number == left.number
    assert next_.token > part_of(other).me.token


async def test_what_is_asked_of_a_node_comes_with_its_beat(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    assert await part_of(one).ask(part_of(other).me.token, "leave")
    assert (await part_of(other).beat(done=0, routes=0, sessions=0)).asked == "leave"
    assert (await part_of(one).beat(done=0, routes=0, sessions=0)).asked == ""
    assert not await part_of(one).ask(part_of(other).me.token + 100, "leave")


async def test_only_a_node_that_did_not_beat_since_is_marked_dead(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    before = (await seen_by(one))[part_of(other).me.token]
    await part_of(other).beat(done=0, routes=0, sessions=0)
    assert not await part_of(one).mark_dead(before)
    await part_of(other).beat(done=0, routes=0, sessions=0)


async def test_of_two_that_mark_a_node_dead_one_did(cluster: ClusterBackend) -> None:
    one, other, third = [await cluster.node() for _ in range(3)]
    await cluster.crash(third)
    seen = (await seen_by(one))[part_of(third).me.token]
    assert await part_of(one).mark_dead(seen)
    assert not await part_of(other).mark_dead(seen)
    assert (await seen_by(other))[seen.token].state == "dead"


async def test_a_node_that_was_marked_dead_does_nothing_more(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    await other.commit([opened(ANN)])
    async with cluster.away(other):
        await marked(one, other)
    part = part_of(other)
    with pytest.raises(FencedOut):
        await ends(lambda: part.beat(done=0, routes=0, sessions=0))
    with pytest.raises(FencedOut):
        await other.commit([make.append("a", ["u/ann"])])
    with pytest.raises(FencedOut):
        await part.send({part_of(one).me.token: Parcel()})
    with pytest.raises(FencedOut):
        await part.lease("jobs")
    assert await one.read_conversation("a") == []
    assert [key for page in [page async for page in part_of(one).held(part.me.token)] for key in page] == [ANN]


async def test_a_dead_node_is_listed_until_it_is_settled_and_keeps_its_number(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    dead = part_of(other).me
    await cluster.crash(other)
    await marked(one, other)
    await part_of(one).settle(dead.token)
    assert list(await seen_by(one)) == [part_of(one).me.token]
    await part_of(one).settle(dead.token)  # again
    assert part_of(await cluster.node()).me.number not in (dead.number, part_of(one).me.number)


async def test_a_node_that_is_up_is_not_settled(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    await part_of(one).settle(part_of(other).me.token)
    await part_of(other).beat(done=0, routes=0, sessions=0)


async def test_one_node_at_a_time_has_a_lease(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    assert await part_of(one).lease("jobs")
    assert await part_of(one).lease("jobs")
    assert not await part_of(other).lease("jobs")
    assert await part_of(other).lease("indexer")
    await part_of(other).release("jobs")  # it has not got it
    assert not await part_of(other).lease("jobs")
    await part_of(one).release("jobs")
    assert await part_of(other).lease("jobs")
    assert not await part_of(one).lease("jobs")


@pytest.mark.parametrize("settled", [False, True])
async def test_a_lease_of_a_dead_node_is_free(cluster: ClusterBackend, settled: bool) -> None:
    one, other = await cluster.node(), await cluster.node()
    assert await part_of(other).lease("jobs")
    await cluster.crash(other)
    assert not await part_of(one).lease("jobs")
    await marked(one, other)
    if settled:
        await part_of(one).settle(part_of(other).me.token)
    assert await part_of(one).lease("jobs")


async def test_a_lease_of_a_node_that_left_is_free(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    assert await part_of(other).lease("jobs")
    await other.close()
    assert await part_of(one).lease("jobs")


async def test_a_node_without_its_database_can_do_nothing_and_goes_on_when_it_is_back(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    part = part_of(one)
    async with cluster.away(one):
        for call in (part.nodes(), part.time(), part.routes_after(0), part.lease("jobs")):
            with pytest.raises(StorageUnavailable):
                await call
        with pytest.raises(StorageUnavailable):
            await part.send({part_of(other).me.token: Parcel()})
    await ends(lambda: part.beat(done=0, routes=0, sessions=0))
    assert await part.lease("jobs")


async def test_the_clock_is_the_databases(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    first = await part_of(one).time()
    second = await part_of(other).time()
    assert first <= second <= await part_of(one).time()


async def test_a_node_with_other_settings_is_refused_with_both_values(cluster: ClusterBackend) -> None:
    one = await cluster.node("one", {"fanout": "write", "retention": "30 days"})
    with pytest.raises(StorageUnusable, match=r"retention is '7 days' here and '30 days' on node 0 \(one\): "):
        await cluster.node("other", {"fanout": "write", "retention": "7 days"})
    await cluster.node("third", {"fanout": "write", "retention": "30 days"})
    assert len(await part_of(one).nodes()) == 2


async def test_settings_may_change_once_nobody_is_there(cluster: ClusterBackend) -> None:
    await (await cluster.node("one", {"fanout": "write"})).close()
    await cluster.node("other", {"fanout": "read"})


async def test_ids_go_on_above_those_of_the_numbers_last_node(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    number = part_of(other).me.number
    make.id = 5 << 22 | number << 12
    await other.commit([make.append("a")])
    assert await other.last_id() == make.id
    assert await one.last_id() == 0
    await other.close()
    again = await cluster.node()
    assert part_of(again).me.number == number
    assert await again.last_id() == make.id
    assert part_of(again).me.done == make.id


async def test_finishing_a_dead_node_names_everybody_who_is_due_its_last_messages(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    make.id = 5 << 22 | part_of(other).me.number << 12
    await other.commit([make.append("a", ["u/ann"])])
    await part_of(other).beat(done=make.id, routes=0, sessions=0)
    await other.commit([make.append("a", ["u/ann", "u/bob"]), make.append("b", ["u/bob"])])
    await cluster.crash(other)
    await marked(one, other)
    finished = await part_of(one).finish(part_of(other).me.token)
    assert finished.entries == 0
    assert sorted(finished.heads) == [("u/ann", 2), ("u/bob", 2)]
    assert finished.untold == [(make.id - 1, "a"), (make.id, "b")]


async def test_who_takes_a_device_disconnects_it_in_the_same_step(cluster: ClusterBackend) -> None:
    """Who takes it may die right after: nothing more must follow for its will and its end to come."""
    one, other = await cluster.node(), await cluster.node()
    await other.commit([opened(ANN, 4, will=b"gone", expiry=60)])
    token = part_of(other).me.token
    await cluster.crash(other)

    def ended(device: Device) -> CloseSession:
        return CloseSession(ANN, device.epoch, False, device.expiry, 70_000, device.will, 10_000)

    assert await part_of(one).take(ANN, token + 1, ended) is None, "it is not with that node"
    taken = await part_of(one).take(ANN, token, ended)
    stored = await one.device(ANN)
    assert taken == stored
    assert stored is not None
    assert (stored.node, stored.epoch, stored.will, stored.will_at, stored.expires_at) == (0, 5, b"gone", 10_000, 70_000)
    assert (await one.due(10_000)).devices == [ANN]
    assert await part_of(one).take(ANN, token, ended) is None
    assert [page async for page in part_of(one).held(token)] == []


async def test_what_the_holder_of_a_taken_device_writes_changes_nothing(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    await other.commit([opened(ANN, 4)])
    token = part_of(other).me.token
    assert await part_of(one).take(ANN, token, lambda device: CloseSession(ANN, device.epoch, False)) is not None
    before = await one.device(ANN)
    late = Progress(ANN, 4, 9, 9, [])
    await other.commit([late])
    assert isinstance(late.error, Superseded)
    assert await one.device(ANN) == before


async def test_what_a_device_published_beside_its_qos_2_is_refused_with_it(cluster: ClusterBackend, make: Maker) -> None:
    """It was sent again to the node that has the device: stored before what is refused, it would overtake that."""
    one, other = await cluster.node(), await cluster.node()
    await one.commit([opened(ANN, 4)])
    await other.commit([opened(ANN, 5)])
    of_ann = [make.append("a"), make.append("a", qos=2, received=(ANN, 7)), make.append("a"), make.append("b", qos=0)]
    for append in of_ann:
        append.epoch = 4
    of_others = [make.append("a", user="u/bob", device="pad"), make.append("a", device="")]
    await one.commit([*of_ann, *of_others])
    assert [type(append.error) for append in of_ann] == [Superseded] * 4
    assert [append.error for append in of_others] == [None, None]
    assert [message.id for message in await other.read_conversation("a")] == [append.message.id for append in of_others]
    assert await other.read_conversation("b") == []
