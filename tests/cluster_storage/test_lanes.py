"""Lanes: what one node has for another, each sender's in its order, nothing lost."""

from __future__ import annotations

import asyncio

import pytest

from storage.cluster import Note, Parcel, Wake
from storage.errors import StorageUnavailable
from storage.interface import Storage
from tests.cluster_storage.backends import ClusterBackend, ends, part_of
from tests.storage.samples import Maker, fields_of


def numbered(number: int) -> Parcel:
    return Parcel(notes=[Note("n", number, {})])


async def receive(storage: Storage, count: int) -> list[Parcel]:
    parcels: list[Parcel] = []
    while len(parcels) < count:
        came = await part_of(storage).receive(30.0)
        assert came, f"{len(parcels)} of {count} came"
        parcels += came
    return parcels


async def test_all_of_a_parcel_arrives(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    stored = make.append("a", ["u/ann"], properties=b"\x01\x02", expires=5)
    await one.commit([stored])
    live, gone = make.message("b", qos=2, retain=True), make.message("c", payload=b"")
    body = {"text": "ü", "number": 1 << 60, "bytes": b"\0\xff", "list": [1, "a", [b"x"]], "dict": {"k": {}}}
    parcel = Parcel(
        wakes=[Wake("u/ann", 1, stored.message), Wake("u/ann", 2, None, "phone")],
        live=[live],
        transient=[gone],
        notes=[Note("take", 7, body)],
    )
    await part_of(one).send({part_of(other).me.token: parcel})
    (came,) = await receive(other, 1)
    assert came.sender == part_of(one).me.token
    assert [(w.user, w.seq, fields_of(w.message), w.target) for w in came.wakes] == [
        ("u/ann", 1, fields_of(stored.message), ""),
        ("u/ann", 2, None, "phone"),
    ]
    assert [fields_of(m) for m in came.live] == [fields_of(live)]
    assert [fields_of(m) for m in came.transient] == [fields_of(gone)]
    assert came.notes == [Note("take", 7, body)]


async def test_a_receiver_that_has_nothing_waits_and_is_woken(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    assert await part_of(other).receive(0.01) == []
    waiting = asyncio.create_task(part_of(other).receive(30.0))
    await part_of(one).send({part_of(other).me.token: numbered(1)})
    assert [parcel.notes[0].id for parcel in await waiting] == [1]
    assert await part_of(other).receive(0.01) == []


async def test_many_senders_each_in_order(cluster: ClusterBackend) -> None:
    receiver = await cluster.node()
    senders = [await cluster.node() for _ in range(4)]
    to, count = part_of(receiver).me.token, 25

    async def send(storage: Storage) -> None:
        for n in range(count):
            await part_of(storage).send({to: numbered(n)})

    receiving = asyncio.create_task(receive(receiver, 4 * count))
    await asyncio.gather(*(send(storage) for storage in senders))
    came = await receiving
    for storage in senders:
        token = part_of(storage).me.token
        assert [p.notes[0].id for p in came if p.sender == token] == list(range(count))


async def test_sends_of_one_node_at_once_keep_their_order(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    to = part_of(other).me.token
    await asyncio.gather(*(part_of(one).send({to: numbered(n)}) for n in range(20)))
    assert [p.notes[0].id for p in await receive(other, 20)] == list(range(20))


async def test_a_node_sends_to_itself(cluster: ClusterBackend) -> None:
    one = await cluster.node()
    await part_of(one).send({part_of(one).me.token: numbered(1)})
    assert [p.notes[0].id for p in await receive(one, 1)] == [1]


async def test_what_was_sent_to_a_frozen_node_is_there_when_it_is_back(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    async with cluster.away(other):
        await part_of(one).send({part_of(other).me.token: numbered(1)})
        with pytest.raises(StorageUnavailable):
            await part_of(other).receive(0.01)
    await part_of(one).send({part_of(other).me.token: numbered(2)})
    assert [p.notes[0].id for p in await ends(lambda: receive(other, 2))] == [1, 2]


async def test_sending_to_a_node_that_is_gone_does_nothing(cluster: ClusterBackend) -> None:
    one, other, third = [await cluster.node() for _ in range(3)]
    await other.close()
    to = part_of(third).me.token
    await part_of(one).send({part_of(one).me.token + 1: numbered(1), to: numbered(2)})
    assert [p.notes[0].id for p in await receive(third, 1)] == [2]


async def test_lanes_of_a_dead_node_go_when_it_is_settled_and_what_it_sent_arrives(cluster: ClusterBackend) -> None:
    one, other = await cluster.node(), await cluster.node()
    dead = part_of(other).me.token
    await part_of(other).send({part_of(one).me.token: numbered(1)})
    await cluster.crash(other)
    seen = next(node for node in await part_of(one).nodes() if node.token == dead)
    assert await part_of(one).mark_dead(seen)
    await part_of(one).send({dead: numbered(9)})  # it may still be settled
    await part_of(one).settle(dead)
    await part_of(one).send({dead: numbered(9)})
    assert [p.notes[0].id for p in await receive(one, 1)] == [1]
    assert await cluster.lane_entries() <= 1  # what `receive` gave last is removed by the next call
    assert await part_of(one).receive(0.01) == []
    assert await cluster.lane_entries() == 0


async def test_what_is_sent_to_a_node_that_had_just_left_does_not_stay_for_ever(cluster: ClusterBackend) -> None:
    """Its sender did not know yet. Whoever joins next removes it, and nothing else."""
    one, other, third = [await cluster.node() for _ in range(3)]
    await part_of(one).nodes()
    left, to = part_of(other).me.token, part_of(third).me.token
    await other.close()
    await part_of(one).send({left: numbered(1), to: numbered(2)})
    await cluster.node()
    assert await cluster.lane_entries() == 1
    assert [p.notes[0].id for p in await receive(third, 1)] == [2]
