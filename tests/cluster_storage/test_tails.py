"""The tail of each node, as who follows the store for search sees it: also of nodes that are there no more."""

from __future__ import annotations

from storage.cluster import number_of
from storage.interface import Storage
from tests.cluster_storage.backends import ClusterBackend, part_of
from tests.cluster_storage.test_nodes import marked
from tests.storage.samples import Maker


async def stored_by(storage: Storage, make: Maker, count: int = 1) -> list[int]:
    """The ids of messages that a node has committed, which have its number."""
    make.id = (make.id >> 22) + 1 << 22 | part_of(storage).me.number << 12
    group = make.appends(count, "a")
    await storage.commit(group)
    return [append.message.id for append in group]


async def test_the_tail_of_a_node_that_left_is_whole(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    last = (await stored_by(other, make, 3))[-1]
    await other.close()
    assert (await one.tails())[number_of(last)] == last


async def test_the_tail_of_a_dead_node_is_whole_once_it_is_settled(cluster: ClusterBackend, make: Maker) -> None:
    """It had not said yet how far it was."""
    one, other = await cluster.node(), await cluster.node()
    ids = await stored_by(other, make, 3)
    number, token = number_of(ids[0]), part_of(other).me.token
    await cluster.crash(other)
    await marked(one, other)
    await part_of(one).finish(token)
    await part_of(one).settle(token)
    assert (await one.tails())[number] == ids[-1]
    page = await one.read_tail_of(number, 0, ids[-1], 10)
    assert [m.id for m in page.messages] == ids


async def test_a_number_that_went_to_another_node_has_one_tail(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    first = await stored_by(other, make)
    await other.close()
    again = await cluster.node()
    assert part_of(again).me.number == number_of(first[0])
    assert (await again.tails())[number_of(first[0])] == first[0]
    (second,) = await stored_by(again, make)
    await part_of(again).beat(done=second, routes=0, sessions=0)
    assert (await one.tails())[number_of(first[0])] == second
