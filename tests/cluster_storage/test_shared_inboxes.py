"""How nodes divide the inbox of a shared subscription: what one has claimed no other has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.shared_inboxes import Division, Exchange, SeqRange, Want, common, joined, singles, without
from tests.cluster_storage.backends import ClusterBackend, ends, part_of

INBOX = "s/group/news/#"


class Part:
    """A node's part of the inbox, as it knows it itself."""

    def __init__(self, storage: Storage, since: int = 0) -> None:
        self.storage = storage
        self.since = since
        self.known: list[SeqRange] = []

    async def tell(
        self,
        mine: Sequence[SeqRange],
        *,
        back: Sequence[SeqRange] = (),
        held: Sequence[int] = (),
        want: Want | None = None,
        refused: Sequence[SeqRange] = (),
        again: bool = False,
    ) -> list[SeqRange]:
        told = Exchange(self.since, self.known, mine, back, held, want, refused, again)
        exchanged = await part_of(self.storage).shared_inboxes.exchange(INBOX, told)
        self.known = exchanged.claimed
        return exchanged.got

    async def claim(self, head: int, most: int, parts: int = 1) -> list[SeqRange]:
        return await self.tell(self.known, want=Want(head, most, parts))


async def division(storage: Storage) -> Division:
    return dict(await part_of(storage).shared_inboxes.divided())[INBOX]


async def test_each_claims_what_nobody_has(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    assert await one.claim(head=10, most=4) == [SeqRange(1, 4)]
    assert await other.claim(head=10, most=4) == [SeqRange(5, 8)]
    assert await one.claim(head=10, most=4) == [SeqRange(9, 10)]
    assert await other.claim(head=10, most=4) == []
    assert await other.claim(head=11, most=4) == [SeqRange(11, 11)]
    tokens = [part_of(part.storage).me.token for part in (one, other)]
    assert (await division(one.storage)).claimed == {
        tokens[0]: [SeqRange(1, 4), SeqRange(9, 10)],
        tokens[1]: [SeqRange(5, 8), SeqRange(11, 11)],
    }


async def test_what_there_is_is_shared_by_so_many_nodes(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    assert await one.claim(head=9, most=100, parts=2) == [SeqRange(1, 5)]
    assert await other.claim(head=9, most=100, parts=2) == [SeqRange(6, 7)]
    assert await other.claim(head=9, most=1, parts=1) == [SeqRange(8, 8)]


async def test_many_that_claim_at_once_get_each_entry_once(cluster: ClusterBackend) -> None:
    parts = [Part(await cluster.node()) for _ in range(3)]

    async def all_of(part: Part) -> None:
        while await part.claim(head=60, most=3):
            pass

    await asyncio.gather(*(all_of(part) for part in parts))
    found = [seq for part in parts for first, last in part.known for seq in range(first, last + 1)]
    assert sorted(found) == list(range(1, 61))


async def test_what_is_given_back_is_the_next_one_s(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=10, most=6)
    assert await one.tell([SeqRange(4, 4)], back=[SeqRange(2, 2), SeqRange(5, 6)]) == []
    assert await other.claim(head=10, most=2) == [SeqRange(2, 2), SeqRange(5, 5)]
    assert await other.claim(head=10, most=2) == [SeqRange(6, 7)]


async def test_what_a_node_refuses_is_for_the_others_only(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=6, most=6)
    assert await one.tell([SeqRange(6, 6)], refused=[SeqRange(2, 4)], want=Want(6, 10)) == []
    assert (await division(one.storage)).offset == 1
    assert await other.claim(head=6, most=2) == [SeqRange(2, 3)]
    await other.tell([], back=[SeqRange(2, 3)])
    assert await one.tell(one.known, want=Want(6, 10)) == []
    assert await one.tell(one.known, want=Want(6, 10), again=True) == [SeqRange(2, 4)]
    await one.tell([])
    found = await division(one.storage)
    assert (found.offset, found.refused) == (6, {})


async def test_what_a_node_has_refused_ends_with_it(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    token = part_of(one.storage).me.token
    await one.claim(head=4, most=4)
    await one.tell([SeqRange(4, 4)], refused=[SeqRange(1, 3)])
    await part_of(other.storage).shared_inboxes.release(INBOX, token, [], [])
    assert (await division(other.storage)).refused == {}
    assert await one.claim(head=4, most=10) == [SeqRange(1, 4)]


async def test_all_up_to_the_offset_is_done_whoever_did_it(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=10, most=5)
    await other.claim(head=10, most=5)
    assert (await division(one.storage)).offset == 0
    await other.tell([])
    assert (await division(one.storage)).offset == 0
    await one.tell([SeqRange(3, 5)])
    assert (await division(one.storage)).offset == 2
    await one.tell([], back=[SeqRange(4, 4)])
    assert (await division(one.storage)).offset == 3
    await other.claim(head=10, most=5)
    await other.tell([])
    assert (await division(one.storage)).offset == 10


async def test_what_a_device_holds_is_done_once_it_is_settled(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=5, most=5)
    await one.tell([], held=[2, 4])
    assert (await division(one.storage)).offset == 1
    assert await other.claim(head=5, most=5) == []
    await part_of(other.storage).shared_inboxes.settle(INBOX, [2])
    assert (await division(one.storage)).offset == 3
    await part_of(other.storage).shared_inboxes.settle(INBOX, [4, 9])
    assert (await division(one.storage)).offset == 5


async def test_what_is_settled_elsewhere_is_nobodys(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=5, most=5)
    await part_of(other.storage).shared_inboxes.settle(INBOX, [3])
    await one.tell([SeqRange(1, 5)], back=[SeqRange(3, 3)], held=[3])
    assert one.known == [SeqRange(1, 2), SeqRange(4, 5)]
    assert (await division(one.storage)).held == []


async def test_of_a_dead_node_all_is_free_but_what_devices_hold(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    await one.claim(head=6, most=6)
    inboxes = part_of(other.storage).shared_inboxes
    for _ in range(2):  # again, as who takes over may die
        await inboxes.release(INBOX, part_of(one.storage).me.token, [2, 7], [3])
    assert await other.claim(head=6, most=9) == [SeqRange(1, 1), SeqRange(4, 6)]
    assert (await division(other.storage)).held == [2]


async def test_a_claim_whose_answer_was_lost_is_told_with_the_next_one(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node())
    assert await one.claim(head=3, most=2) == [SeqRange(1, 2)]
    one.known = []
    assert await one.tell([]) == [SeqRange(1, 2)]
    assert await other.claim(head=3, most=2) == [SeqRange(3, 3)]


async def test_a_new_group_of_the_same_name_begins_anew(cluster: ClusterBackend) -> None:
    one, other = Part(await cluster.node()), Part(await cluster.node(), since=20)
    await one.claim(head=10, most=4)
    assert await other.claim(head=23, most=2) == [SeqRange(21, 22)]
    assert await one.claim(head=23, most=4) == []
    await part_of(one.storage).shared_inboxes.forget(INBOX, 0)
    assert (await division(one.storage)).since == 20
    await part_of(one.storage).shared_inboxes.forget(INBOX, 20)
    assert await part_of(one.storage).shared_inboxes.divided() == []


async def test_without_the_database_nothing_is_claimed(cluster: ClusterBackend) -> None:
    one = Part(await cluster.node())
    async with cluster.away(one.storage):
        with pytest.raises(StorageUnavailable):
            await one.claim(head=3, most=2)
    assert await ends(lambda: one.claim(head=3, most=2)) == [SeqRange(1, 2)]


RANGES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)).map(lambda pair: SeqRange(pair[0], sum(pair))), max_size=5)


def entries(ranges: Sequence[SeqRange]) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


@given(RANGES, RANGES)
def test_ranges_are_sets_of_entries(some: list[SeqRange], others: list[SeqRange]) -> None:
    assert entries(joined(some)) == entries(some)
    assert entries(without(some, others)) == entries(some) - entries(others)
    assert entries(common(some, others)) == entries(some) & entries(others)
    assert singles(entries(some)) == joined(some)
