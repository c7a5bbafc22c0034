"""A message that is stored late, under the id that another node had claimed for it, is found by who follows what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from plugins.follower import Follower
from storage.cluster import DEAD
from storage.errors import FencedOut
from storage.interface import LATE
from storage.mongo import MongoStorage, late
from storage.records import Append, CloseSession, DeviceKey
from tests.storage.samples import Maker, opened
from tests.storage_mongo.test_guards import Held
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy

ANN = DeviceKey("u/ann", "phone")


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[tuple[Held, Held, MongoStorage]]:
    """Two nodes whose writes can be held up, and one that looks on."""
    proxies = [MongoProxy(*mongo_server.address()) for _ in range(2)]
    for proxy in proxies:
        await proxy.start()
    held = [MongoStorage(mongo_server.url(database, through=proxy.port)) for proxy in proxies]
    looker = MongoStorage(mongo_server.url(database))
    for storage in (*held, looker):
        await storage.open()
    yield Held(held[0], proxies[0]), Held(held[1], proxies[1]), looker
    for storage in (*held, looker):
        await storage.close()
    for proxy in proxies:
        await proxy.stop()


def received(make: Maker, storage: MongoStorage, count: int) -> Append:
    """The QoS 2 message, as a node numbers it."""
    append = make.append("x", qos=2, payload=b"once", received=(ANN, 9))
    append.message.id = count << 22 | (storage._state.number or 0) << 12
    return append


async def new(follower: Follower) -> list[int]:
    """The ids of what came since the last time."""
    found: list[int] = []
    while True:
        read = await follower.read(2, 1 << 20)
        found += [message.id for message in read.messages]
        follower.take(read.positions)
        if read.ends and not follower.more:
            return found


async def claimed(first: Held, second: MongoStorage, looker: MongoStorage, make: Maker) -> Append:
    """A message that the first node has claimed and not stored; it goes on, and the second one has the device by now."""
    await first.storage.commit([opened(ANN, 2)])
    append = received(make, first.storage, 100)
    await first.commit([append], "store")
    assert first.storage.cluster is not None
    assert second.cluster is not None
    assert looker.cluster is not None
    await looker.cluster.take(ANN, first.storage.cluster.me.token, lambda device: CloseSession(ANN, device.epoch, False))
    await second.commit([opened(ANN, 10)])
    return append


async def test_it_is_found_by_who_has_read_past_its_id(nodes: tuple[Held, Held, MongoStorage], make: Maker) -> None:
    first, second, looker = nodes
    mine = await claimed(first, second.storage, looker, make)
    token = first.storage._state.token
    await looker.collections.nodes.update_one({"token": token}, {"$set": {"done": mine.message.id + 1000}})
    follower = Follower(looker, {}, {})
    assert await new(follower) == []
    assert follower.positions[first.storage._state.number or 0] > mine.message.id
    theirs = received(make, second.storage, 50)
    await second.storage.commit([theirs])
    assert theirs.message.id == mine.message.id
    assert await new(follower) == [mine.message.id]
    await first.thaw()
    assert await new(follower) == []
    assert [message.payload for message in await looker.read_conversation("x")] == [b"once"]
    everything = Follower(looker, {}, {})
    assert set(await new(everything)) == {mine.message.id}


async def test_it_is_found_where_its_node_died_when_it_was_stored(nodes: tuple[Held, Held, MongoStorage], make: Maker) -> None:
    first, second, looker = nodes
    await claimed(first, second.storage, looker, make)
    theirs = received(make, second.storage, 50)
    await second.commit([theirs], "late")
    assert looker.cluster is not None
    token = second.storage._state.token
    (node,) = [node for node in await looker.cluster.nodes() if node.token == token]
    await looker.collections.nodes.update_one({"token": token}, {"$set": {"state": DEAD}})
    assert LATE not in await looker.tails()
    for _ in range(2):
        finished = await looker.cluster.finish(node.token)
        assert finished.untold == [(theirs.message.id, "x")]
    assert (await looker.tails())[LATE] == 1
    page, position = await looker.read_tail_of(LATE, 0, 1, 10)
    assert ([message.id for message in page], position) == ([theirs.message.id], 1)
    with suppress(FencedOut):  # it learns that with its next beat
        await second.thaw()
    await first.thaw()


async def test_who_finishes_it_keeps_it_in_the_order_of_its_group(nodes: tuple[Held, Held, MongoStorage], make: Maker) -> None:
    """Another node's id tells nothing about where in the group its message stood, nor which of two is retained."""
    first, second, looker = nodes
    await claimed(first, second.storage, looker, make)
    number = second.storage._state.number or 0
    group = [
        make.append("x", ["u/bob"], payload=b"1"),
        received(make, second.storage, 50),
        make.append("y", ["u/bob"], payload=b"2"),
    ]
    for place, append in enumerate(group):
        append.message.id = (50 + place) << 22 | number << 12
        append.recipients, append.retain, append.message.retain = ["u/bob"], True, True
    group.append(received(make, second.storage, 60))
    group[-1].received, group[-1].recipients = (ANN, 10), ["u/bob"]
    await second.commit(list(group), "sync")
    assert looker.cluster is not None
    token = second.storage._state.token
    await looker.collections.nodes.update_one({"token": token}, {"$set": {"state": DEAD}})
    finished = await looker.cluster.finish(token)
    assert finished.untold == [(append.message.id, append.message.topic) for append in group]
    inbox = await looker.read_inbox("u/bob", 0, 10)
    assert [entry.message and entry.message.payload for entry in inbox] == [b"1", b"once", b"2", b"once"]
    retained = await looker.retained_range("", "", 10)
    assert [(message.topic, message.payload) for message in retained] == [("x", b"once"), ("y", b"2")]
    with suppress(FencedOut):  # it learns that with its next beat
        await second.thaw()
    await first.thaw()


async def test_it_is_forgotten_with_its_message(nodes: tuple[Held, Held, MongoStorage], make: Maker) -> None:
    """The last one stays, as it tells where the tail ends."""
    _, _, looker = nodes
    kept, gone, last = (make.append("x", time=1), make.append("gone", time=1), make.append("gone", time=1))
    await looker.commit([kept, gone, last])
    state = looker._state
    await late.tell(state, [append.message.id for append in (kept, gone, last)])
    await looker.prune_conversation("gone", 3)
    await late.sweep(state, await state.now() - 60_000)
    assert await state.collections.late.count_documents({}) == 3, "young ones stay"
    await late.sweep(state, await state.now() + 1000)
    page, position = await looker.read_tail_of(LATE, 0, 3, 10)
    assert ([message.id for message in page], position) == ([kept.message.id], 3)
    assert await state.collections.late.count_documents({}) == 2
