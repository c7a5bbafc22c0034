"""What several nodes write at once: the group of a shared subscription, and how far a user has read."""

from __future__ import annotations

from storage.cluster import ADD, ENDED, HELD, REMOVE, Change
from storage.errors import Superseded
from storage.interface import Storage
from storage.records import (
    ANY_EPOCH,
    NEVER,
    CloseSession,
    DeviceKey,
    MarkRead,
    OpenSession,
    Operation,
    Progress,
    Subscribe,
    Subscription,
)
from tests.cluster_storage.backends import ClusterBackend, part_of
from tests.storage.samples import Maker

GROUP = DeviceKey("s/crew/news", "")


def joining(epoch: int) -> list[Operation]:
    opening = OpenSession(GROUP, epoch, False, NEVER, shared=True)
    return [opening, Subscribe(GROUP, ANY_EPOCH, [Subscription("news", 2, since=-1)])]


async def told(storage: Storage) -> list[Change]:
    return [change for route in await part_of(storage).routes_after(0) for change in route.changes]


async def test_the_second_node_finds_what_the_first_one_made(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    await one.commit(joining(100))
    await one.commit([make.append("news", [GROUP.user])])
    group = joining(100)
    await other.commit(group)
    opening, subscribing = group
    assert isinstance(opening, OpenSession)
    assert isinstance(subscribing, Subscribe)
    assert (opening.error, opening.head, opening.created) == (None, 1, False)
    assert subscribing.subscriptions[0].since == 0
    device = await one.device(GROUP)
    assert device is not None
    assert (device.epoch, device.offset, device.node) == (101, 0, 0)


async def test_it_is_not_deleted_as_it_was_before_another_node_joined(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    await one.commit(joining(100))
    await other.commit(joining(50))
    ending = CloseSession(GROUP, 100, True)
    await one.commit([ending])
    assert isinstance(ending.error, Superseded)
    device = await one.device(GROUP)
    assert device is not None
    assert list(device.subscriptions) == ["news"]
    await one.commit([CloseSession(GROUP, device.epoch, True)])
    assert await one.device(GROUP) is None


async def test_what_is_told_of_one_that_ended_late_counts_for_nothing_once_it_is_there_again(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await one.commit(joining(100))
    await one.commit([CloseSession(GROUP, 100, True)])
    await one.commit(joining(50))
    held = [Change(HELD, *GROUP, epoch=epoch) for epoch in (100, 101)]
    added = [Change(ADD, *GROUP, "news", epoch) for epoch in (100, 101)]
    ended = [Change(REMOVE, *GROUP, "news", 100), Change(ENDED, *GROUP, epoch=100)]
    assert await told(one) == [held[0], added[0], *ended, held[1], added[1]]


async def test_its_offset_counts_whatever_the_epoch_is(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await one.commit([*joining(100), Progress(GROUP, ANY_EPOCH, 7, 7, [])])
    assert await one.lowest_offset(GROUP.user) == 7


async def test_a_read_position_goes_as_far_as_another_node_has_written(cluster: ClusterBackend, make: Maker) -> None:
    """Also where this node has looked at the conversation a moment ago."""
    one, other = await cluster.node(), await cluster.node()
    for last in (1, 2, 3):
        await other.commit([make.append("chat")])
        marking = MarkRead("u/ann", "chat", last)
        await one.commit([marking])
        assert (marking.position, marking.last) == (last, last)
