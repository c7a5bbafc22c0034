"""A publisher sends again through another node, while the first one is frozen at any write: stored once, in each inbox once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextlib import suppress

import pytest

from storage.errors import FencedOut, MessageRefused, Superseded, Unfinished
from storage.mongo import MongoStorage
from storage.records import Append, CloseSession, DeviceKey, PutRow, Release
from tests.storage.samples import START, Maker, opened
from tests.storage_mongo.groups import check_laws
from tests.support import mongo_server
from tests.support.mongo_proxy import WRITES, Command, MongoProxy

ANN = DeviceKey("u/ann", "phone")
QUIET = {"nodes", "lanes", "leases"}


async def _pair(database: str, proxy: MongoProxy) -> tuple[MongoStorage, MongoStorage]:
    slow = MongoStorage(mongo_server.url(database, through=proxy.port))
    other = MongoStorage(mongo_server.url(database))
    await slow.open()
    await other.open()
    for storage in (slow, other):
        storage._state.sweep_at = math.inf  # by the database's clock the samples' keys hold no more since long ago
    return slow, other


class Frozen:
    """A commit whose ``number``-th write is held up until `thaw`; ``whole``: it had fewer."""

    def __init__(self, storage: MongoStorage, proxy: MongoProxy, number: int, append: Append) -> None:
        self._go, self._held, self._left, self._last = asyncio.Event(), asyncio.Event(), number, Command("", "")
        proxy.pass_on, proxy.held = self._see, self._hold
        self._commit = asyncio.create_task(storage.commit([append]))
        self.whole = False

    def _see(self, command: Command) -> bool:
        self._last = command
        if command.name in WRITES and command.collection not in QUIET:
            self._left -= 1
        return True

    def _hold(self) -> Awaitable[object] | None:
        if self._left <= 0 and not self._go.is_set() and self._last.name in WRITES:
            self._held.set()
            return self._go.wait()
        return None

    async def reached(self) -> None:
        held = asyncio.create_task(self._held.wait())
        await asyncio.wait([held, self._commit], return_when=asyncio.FIRST_COMPLETED)
        self.whole = self._commit.done()
        held.cancel()

    async def thaw(self) -> None:
        self._go.set()
        await self._commit


@pytest.mark.parametrize("finished", [False, True], ids=["at once", "behind finish"])
@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("kind", ["packet id", "key"])
async def test_sent_again_through_another_node(
    database: str, proxy: MongoProxy, make: Maker, kind: str, number: int, finished: bool
) -> None:
    async with asyncio.timeout(90):
        slow, other = await _pair(database, proxy)
        await slow.commit([opened(ANN), make.append("a", ["u/bob"])])

        def publish() -> Append:
            if kind == "packet id":
                return make.append("a", ["u/ann", "u/bob"], b"same", qos=2, received=(ANN, 7))
            until = START + 1_000_000
            return make.append("a", ["u/ann", "u/bob"], b"same", idempotency_key="k", idempotency_until=until)

        first = publish()
        frozen = Frozen(slow, proxy, number, first)
        await frozen.reached()
        if finished:
            assert other.cluster is not None
            await other.cluster.finish(slow._state.token)
        await other.commit([opened(ANN, 2)])
        again = publish()
        device = await other.device(ANN)
        assert device is not None
        if kind == "key" or 7 not in device.received:  # else it is known, and nothing is stored
            await other.commit([again])
        await other.commit([make.append("a", ["u/ann"])])
        await frozen.thaw()
        assert again.error is None
        assert first.error is None or isinstance(first.error, Superseded)
        assert await check_laws(other) == 3
        for user, count in (("u/ann", 2), ("u/bob", 2)):
            assert await other.inbox_head(user) == count
        if kind == "packet id":
            device = await other.device(ANN)
            assert device is not None
            assert device.received == {7}
        else:
            stored = again.original[0] if again.original else again.message.id
            assert (first.original[0] if first.original else first.message.id) == stored
        await slow.close()
        await other.close()


def _same(make: Maker) -> Append:
    return make.append("a", ["u/ann"], b"same", idempotency_key="k", idempotency_until=START + 1_000_000)


def _refused(make: Maker) -> Append:
    """The same, which may only be a repeat."""
    append = _same(make)
    append.refusal = MessageRefused("by a plugin")
    return append


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_what_may_only_be_a_repeat_brings_nothing_to_its_end(
    database: str, proxy: MongoProxy, make: Maker, number: int
) -> None:
    """Of what another node has begun nobody knows whether it is one: its publisher asks again, and the other node goes on."""
    async with asyncio.timeout(90):
        slow, other = await _pair(database, proxy)
        first, again, late, foreign = _same(make), _refused(make), _refused(make), _refused(make)
        foreign.message.payload = b"another"
        frozen = Frozen(slow, proxy, number, first)
        await frozen.reached()
        await other.commit([again, foreign])
        await frozen.thaw()
        await other.commit([late])
        if number == 1:  # nothing is known of it yet
            assert again.error is again.refusal
        else:
            assert isinstance(again.error, Unfinished)
        assert foreign.error is foreign.refusal
        assert (first.error, late.error, late.original) == (None, None, (first.message.id, 1))
        assert await check_laws(other) == 1
        await slow.close()
        await other.close()


async def test_what_may_only_be_a_repeat_is_one_of_what_its_group_brings_to_its_end(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    async with asyncio.timeout(90):
        slow, other = await _pair(database, proxy)
        first, taken, again = _same(make), _same(make), _refused(make)
        frozen = Frozen(slow, proxy, 2, first)
        await frozen.reached()
        await other.commit([taken, again])
        await frozen.thaw()
        assert (again.error, again.original) == (None, (first.message.id, 1))
        assert await check_laws(other) == 1
        await slow.close()
        await other.close()


@pytest.mark.parametrize("number", [2, 3])
async def test_what_a_dead_node_had_begun_is_a_repeat_where_it_was_stored(
    database: str, proxy: MongoProxy, make: Maker, number: int
) -> None:
    """Else nobody will ever store it, and who sends it again is not to do so for ever."""
    async with asyncio.timeout(90):
        slow, other = await _pair(database, proxy)
        frozen = Frozen(slow, proxy, number, first := _same(make))
        await frozen.reached()
        dead, cluster = slow._state.token, other.cluster
        assert cluster is not None
        (node,) = (node for node in await cluster.nodes() if node.token == dead)
        assert await cluster.mark_dead(node)
        again, late = _refused(make), _refused(make)
        await other.commit([again])
        await cluster.finish(dead)
        await other.commit([late])
        if number == 2:  # it had its name, and no more
            assert (again.error, late.error) == (again.refusal, late.refusal)
        else:
            assert isinstance(again.error, Unfinished)
            assert (late.error, late.original) == (None, (first.message.id, 1))
        with suppress(FencedOut):  # as soon as it hears of it
            await frozen.thaw()
        await slow.close()
        await other.close()


async def test_rows_name_the_message_that_another_node_began_with_and_nothing_else_becomes_another(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    """Who keeps a row says where in it the id is. Words in which the same digits happen to be are somebody's own."""
    async with asyncio.timeout(90):
        slow, other = await _pair(database, proxy)
        until = START + 1_000_000
        first, again = (make.append("a", payload=b"same", idempotency_key="k", idempotency_until=until) for _ in range(2))
        digits = f"{again.message.id:016x}"
        frozen = Frozen(slow, proxy, 2, first)
        await frozen.reached()
        named = PutRow.naming(again, "t", "named", lambda id: (f"{id:x}/{id}", b"%d" % id))
        words = PutRow("t", "words", f"my {digits}", f"{digits}, I said".encode(), of=again)
        await other.commit([again, named, words])
        rows = [row for part in ("named", "words") for row in await other.rows("t", part)]
        await frozen.thaw()
        await slow.close()
        await other.close()
    id = again.message.id
    assert id == first.message.id != int(digits, 16)
    assert [(row.key, row.value) for row in rows] == [
        (f"{id:x}/{id}", b"%d" % id),
        (f"my {digits}", f"{digits}, I said".encode()),
    ]


async def test_a_packet_id_that_was_released_is_free(database: str, proxy: MongoProxy, make: Maker) -> None:
    """Its next message has the same content, and is another one; an older connection's release does not free it again."""
    slow, other = await _pair(database, proxy)
    await slow.commit([opened(ANN)])
    for _ in range(2):
        await slow.commit([make.append("a", payload=b"same", qos=2, received=(ANN, 7))])
        await slow.commit([Release(ANN, 7)])
    await other.commit([opened(ANN, 2)])
    await other.commit([make.append("a", payload=b"same", qos=2, received=(ANN, 7))])
    await slow.commit([Release(ANN, 7)])
    claim = await other.collections.claims.find_one({})
    assert claim is not None
    assert (claim["mid"], claim["epoch"], claim["released"]) == (3, 2, 0)
    assert await other.conversation_bounds("a") == (1, 3)
    await slow.close()
    await other.close()


async def test_a_message_of_a_connection_that_was_taken_over_is_not_stored(
    database: str, proxy: MongoProxy, make: Maker
) -> None:
    slow, other = await _pair(database, proxy)
    await slow.commit([opened(ANN)])
    await other.commit([opened(ANN, 2)])
    late = make.append("a", ["u/bob"], qos=2, received=(ANN, 7))
    await slow.commit([late, make.append("a", ["u/bob"])])
    assert isinstance(late.error, Superseded)
    assert await check_laws(other) == 1
    await slow.close()
    await other.close()


@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "begun anew"])
async def test_packet_ids_of_a_session_that_ended_are_free(database: str, make: Maker, anew: bool) -> None:
    """Nobody releases them any more: a claim that stays claimed would be kept for ever."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([opened(ANN), make.append("a", qos=2, received=(ANN, 7))])
    await storage.commit([opened(ANN, 2, clean=True) if anew else CloseSession(ANN, 1, True)])
    claim = await storage.collections.claims.find_one({})
    assert claim is not None
    assert (claim["mid"], claim["released"]) == (1, 1)
    await storage.close()
