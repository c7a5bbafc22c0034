"""Two nodes and one device: an older epoch changes nothing, also where its write comes late, and what is gone stays gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Container
from contextlib import asynccontextmanager

import pytest

from storage.cluster import ADD, ENDED, HELD, REMOVE, Change
from storage.errors import StorageUnavailable, Superseded
from storage.mongo import MongoStorage
from storage.records import (
    Announce,
    Append,
    CloseSession,
    DeviceKey,
    Inflight,
    InflightState,
    Operation,
    Progress,
    Release,
    Unsubscribe,
)
from tests.storage.samples import Maker, all_retained, opened, subscribe
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy

ANN = DeviceKey("u/ann", "phone")


class Held:
    """A node whose next write to ``collection`` is held up until `thaw`."""

    def __init__(self, storage: MongoStorage, proxy: MongoProxy) -> None:
        self.storage, self._proxy = storage, proxy
        self._go = asyncio.Event()
        self._commit: asyncio.Task[None] | None = None

    async def commit(self, group: list[Operation], collection: str, commands: Container[str] = WRITES) -> None:
        """Begin to commit, as far as that write, or one of these ``commands``."""
        sent, last = asyncio.Event(), Command("", "")

        def see(command: Command) -> bool:
            nonlocal last
            last = command
            if command.name in commands and command.collection == collection:
                sent.set()
            return True

        def hold() -> Awaitable[object] | None:
            return self._go.wait() if sent.is_set() and last.collection == collection and not self._go.is_set() else None

        self._proxy.pass_on, self._proxy.held = see, hold
        self._commit = asyncio.create_task(self.storage.commit(group))
        await sent.wait()

    async def thaw(self) -> None:
        """The write lands, and the commit goes on to its end."""
        self._go.set()
        assert self._commit is not None
        await self._commit


@asynccontextmanager
async def two(database: str, proxy: MongoProxy) -> AsyncIterator[tuple[Held, MongoStorage]]:
    proxy.older = True  # the inboxes are written by a command of their own
    slow = MongoStorage(mongo_server.url(database, through=proxy.port))
    other = MongoStorage(mongo_server.url(database))
    async with asyncio.timeout(90):
        await slow.open()
        await other.open()
        yield Held(slow, proxy), other
        await slow.close()
        await other.close()


async def test_of_two_that_open_a_device_at_once_one_is_told(database: str, proxy: MongoProxy) -> None:
    async with two(database, proxy) as (held, other):
        await other.commit([opened(ANN, 3), CloseSession(ANN, 3, False)])
        mine, theirs = opened(ANN, 4), opened(ANN, 4)
        await held.commit([mine], "devices")
        await other.commit([theirs])
        await held.thaw()
        assert theirs.error is None
        assert isinstance(mine.error, Superseded)
        device = await other.device(ANN)
        assert device is not None
        assert (device.epoch, device.node) == (4, other._state.token)
        assert other.cluster is not None
        told = [change for route in await other.cluster.routes_after(0) for change in route.changes]
        assert told[-1] == Change(HELD, *ANN, epoch=4, node=other._state.token)


STALE: dict[str, Operation] = {
    "progress": Progress(ANN, 1, 2, 2, [Inflight(1, 3, InflightState.PUBLISHED_1)]),
    "subscribe": subscribe(ANN, "late"),
    "unsubscribe": Unsubscribe(ANN, 1, ["a"]),
    "close": CloseSession(ANN, 1, False, expires_at=7),
    "delete": CloseSession(ANN, 1, True),
    "release": Release(ANN, 9),
}


@pytest.mark.parametrize("kind", STALE)
async def test_what_a_node_that_lost_the_device_writes_late_is_superseded(
    database: str, proxy: MongoProxy, make: Maker, kind: str
) -> None:
    async with two(database, proxy) as (held, other):
        await held.storage.commit([opened(ANN), subscribe(ANN, "a"), make.append("x", ["u/ann"], qos=2, received=(ANN, 9))])
        stale = STALE[kind]
        stale.error = None
        await held.commit([stale], "devices")
        again = make.append("x", ["u/ann"], qos=2, received=(ANN, 10))
        await other.commit([opened(ANN, 2), Progress(ANN, 2, 1, 1, []), subscribe(ANN, "b", epoch=2), again])
        before = await other.device(ANN)
        await held.thaw()
        assert isinstance(stale.error, Superseded)
        assert await other.device(ANN) == before


async def test_a_deleted_device_is_not_brought_back(database: str, proxy: MongoProxy, make: Maker) -> None:
    async with two(database, proxy) as (held, other):
        await held.storage.commit([opened(ANN), make.append("x", ["u/ann"])])
        await held.commit([Progress(ANN, 1, 1, 1, []), subscribe(ANN, "late")], "devices")
        await other.commit([opened(ANN, 2), CloseSession(ANN, 2, True)])
        await held.thaw()
        assert await other.device(ANN) is None
        assert await other.device_count() == 0
        assert [page async for page in other.subscribed() if page] == []
        early = opened(ANN, 2)
        await other.commit([early])
        assert isinstance(early.error, Superseded)
        later = opened(ANN, 3)
        await other.commit([later])
        assert (later.error, later.created) == (None, True)


async def test_since_is_behind_what_others_wrote(database: str, proxy: MongoProxy, make: Maker) -> None:
    """The end that a node remembers of an inbox is an old one."""
    async with two(database, proxy) as (held, other):
        session = opened(ANN)
        await held.storage.commit([session, make.append("x", ["u/ann"])])
        await other.commit([make.append("x", ["u/ann"]), make.append("x", ["u/ann"])])
        subscribing, again = subscribe(ANN, "a"), opened(DeviceKey("u/ann", "pad"))
        await held.storage.commit([subscribing, again])
        assert [s.since for s in subscribing.subscriptions] == [3]
        assert (again.head, again.offset) == (3, 3)


@pytest.mark.parametrize("first", ["the late one", "the early one"])
async def test_the_higher_sequence_stays_retained(database: str, proxy: MongoProxy, make: Maker, first: str) -> None:
    """One is held up behind its store, while another one replaces it."""
    async with two(database, proxy) as (held, other):
        await other.commit([make.append("r", retain=True)])
        late = make.append("r", retain=True, payload=b"late")
        await held.commit([late], "retained")
        newer = make.append("r", retain=True, payload=b"newer")
        if first == "the late one":
            await held.thaw()
        await other.commit([newer])
        if first == "the early one":
            await held.thaw()
        assert (late.message.seq, newer.message.seq) == (2, 3)
        assert [message.payload for message in await all_retained(other)] == [b"newer"]


async def test_who_subscribes_between_retained_and_inboxes_gets_the_message(database: str, make: Maker) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    assert storage.cluster is not None
    asked: list[str] = []

    async def rematch(appends: object) -> None:
        assert [message.payload for message in await all_retained(storage)] == [b"now"]
        assert isinstance(appends, list)
        for append in appends:
            asked.append(append.message.topic)
            append.recipients = ["u/bob", *append.recipients]

    storage.cluster.rematch = rematch
    append, other = make.append("r", ["u/ann"], b"now", retain=True), make.append("x", ["u/ann"])
    await storage.commit([append, other])
    assert asked == ["r"]
    assert list(append.inbox_seqs) == [1, 1]
    assert [entry.message and entry.message.id for entry in await storage.read_inbox("u/bob", 0, 9)] == [append.message.id]
    stored = await storage.collections.store.find_one({"mid": append.message.id})
    assert stored is not None
    assert stored["recipients"] == ["u/bob", "u/ann"]
    await storage.close()


# --- routes ------------------------------------------------------------------------------------------------------------


async def _told(storage: MongoStorage, after: int) -> list[list[str]]:
    """What entries tell, by kind and filter."""
    assert storage.cluster is not None
    return [[change.kind + change.filter for change in route.changes] for route in await storage.cluster.routes_after(after)]


async def test_more_is_told_before_anything_is_written_and_less_behind_it(database: str, proxy: MongoProxy) -> None:
    storage = MongoStorage(mongo_server.url(database, through=proxy.port))
    await storage.open()
    writes: list[str] = []

    def see(command: Command) -> bool:
        if command.name in WRITES and command.collection != "nodes":
            writes.append(command.collection)
        return True

    proxy.pass_on = see
    await storage.commit([opened(ANN), subscribe(ANN, "a", "b")])
    assert writes == ["routes", "devices", "subscriptions"]
    assert await _told(storage, 0) == [[HELD, ADD + "a", ADD + "b"]]
    writes.clear()
    await storage.commit([subscribe(ANN, "a", "b")])
    assert writes == []
    assert len(await _told(storage, 0)) == 1
    await storage.commit([Unsubscribe(ANN, 1, ["a"]), subscribe(ANN, "c")])
    assert writes == ["routes", "announced", "devices", "subscriptions", "routes"]
    assert await _told(storage, 1) == [[ADD + "c"], [REMOVE + "a"]]
    await storage.commit([CloseSession(ANN, 1, True)])
    kinds = (await _told(storage, 3))[0]
    assert sorted(kinds[:-1]) == [REMOVE + "b", REMOVE + "c"]
    assert kinds[-1] == ENDED
    await storage.commit([Announce([Change("l", filter="z", node=1)])])
    assert await _told(storage, 4) == [["lz"]]
    await storage.close()


async def test_what_a_node_had_to_tell_last_is_told_by_who_finishes_it(database: str, proxy: MongoProxy) -> None:
    """It dies behind its last write, and was about to tell of two filters: one that is gone, and one that was taken again."""
    node = mongo_server.PatientStorage(mongo_server.url(database, "serverSelectionTimeoutMS=500", through=proxy.port))
    await node.open()
    other = MongoStorage(mongo_server.url(database))
    await other.open()
    assert other.cluster is not None
    token = node._state.token
    await node.commit([opened(ANN), subscribe(ANN, "a", "b")])
    proxy.pass_on = lambda command: command != ("insert", "routes")
    with pytest.raises(StorageUnavailable):
        await node.commit([Unsubscribe(ANN, 1, ["a", "b"])])
    await proxy.stop()
    await node.close()
    await other.commit([opened(ANN, 2), subscribe(ANN, "b", epoch=2)])
    end = (await other.cluster.routes_end())[1]
    await other.cluster.finish(token)
    assert await _told(other, end) == [[REMOVE + "a"]]
    await other.close()


# --- tails -------------------------------------------------------------------------------------------------------------


async def test_a_tail_of_each_node_passes_over_nothing_that_comes_late(database: str, proxy: MongoProxy, make: Maker) -> None:
    """One node's group is held up while another one's is complete, and its ids are lower."""
    async with two(database, proxy) as (held, other):

        def group(storage: MongoStorage, first: int) -> list[Operation]:
            numbers = [first + n << 22 | (storage._state.number or 0) << 12 for n in range(3)]
            appends = [make.append("x", ["u/ann"]) for _ in numbers]
            for append, number in zip(appends, numbers, strict=True):
                append.message.id = number
            return list(appends)

        async def follow(positions: dict[int, int]) -> list[int]:
            found: list[int] = []
            for number, through in (await other.tails()).items():
                while positions.get(number, 0) < through:
                    page, positions[number] = await other.read_tail_of(number, positions.get(number, 0), through, 2)
                    found += [message.id for message in page]
            return found

        mine, theirs = group(held.storage, 100), group(other, 200)
        positions: dict[int, int] = {}
        await held.commit(mine, "sync")
        await other.commit(theirs)
        assert await follow(positions) == [op.message.id for op in theirs if isinstance(op, Append)]
        await held.thaw()
        assert held.storage.cluster is not None
        done = await held.storage.last_id()
        await held.storage.cluster.beat(done=done, routes=0, sessions=0)
        assert await follow(positions) == [op.message.id for op in mine if isinstance(op, Append)]


async def test_what_is_stored_late_is_not_that_of_a_device_that_has_gone_on(
    database: str, proxy: MongoProxy, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is held up before its store: QoS 0, which nobody sends again, has no place behind what came since."""
    monkeypatch.setattr("storage.mongo.commit._FROZE", 0.0)  # however short it was
    async with two(database, proxy) as (held, other):
        await held.storage.commit([opened(ANN)])
        late, of_others = make.append("a", qos=0), make.append("a", user="u/bob", device="pad")
        late.epoch = 1
        await held.commit([late, of_others], "conversations", {"find"})
        await other.commit([opened(ANN, 2)])
        await held.thaw()
        assert isinstance(late.error, Superseded)
        assert of_others.error is None
        assert [message.id for message in await other.read_conversation("a")] == [of_others.message.id]
