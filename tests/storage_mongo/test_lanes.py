"""Lanes in MongoDB: lost answers, sends that were given up, parcels of any size, removal, and who says when to look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cluster import Note, Parcel, Wake
from storage.ending import end
from storage.errors import StorageUnavailable
from storage.messages import Message
from storage.mongo import MongoStorage, lanes, parcels
from tests.storage.samples import Maker, fields_of
from tests.storage_mongo.members import Member, member
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy
from tests.support.until import until


def numbered(number: int, size: int = 0) -> Parcel:
    return Parcel(notes=[Note("n", number, {"pad": bytes(size)})])


async def receive(one: Member, count: int) -> list[int]:
    """The numbers of so many parcels."""
    numbers: list[int] = []
    while len(numbers) < count:
        came = await one.lanes.receive(30.0)
        assert came, f"{numbers} of {count} came"
        numbers += [parcel.notes[0].id for parcel in came]
    return numbers


async def test_a_node_that_knows_of_no_other_looks_less_often(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_ALONE", 60.0)
    one = MongoStorage(mongo_server.url(database))
    await one.open()
    part, looks = one.cluster, 0
    assert part is not None
    assert one._lanes is not None
    look = one._lanes._look

    async def counted() -> list[Parcel]:
        nonlocal looks
        looks += 1
        return await look()

    monkeypatch.setattr(one._lanes, "_look", counted)
    assert await part.receive(0.3) == []
    assert looks == 2  # at first, and when the time is over
    async with member(database) as other:
        await part.nodes()
        waiting = asyncio.create_task(part.receive(30.0))
        await until(lambda: looks >= 5)
        await other.lanes.send({part.me.token: numbered(1)})
        assert [parcel.notes[0].id for parcel in await waiting] == [1]
    await one.close()


@pytest.mark.parametrize("again", [True, False], ids=["sent again", "given up"])
async def test_a_parcel_whose_answer_was_lost_is_there_once(database: str, proxy: MongoProxy, again: bool) -> None:
    async with member(database, through=proxy.port) as one, member(database) as other:
        to = other.node.token
        await one.lanes.send({to: numbered(1)})
        proxy.lose_write(1, "lanes")
        with pytest.raises(StorageUnavailable):
            await one.lanes.send({to: numbered(2)})
        if again:
            await one.lanes.send({to: numbered(2)})
        await one.lanes.send({to: numbered(3)})
        assert await receive(other, 3) == [1, 2, 3]
        assert await other.lanes.receive(0.0) == []


async def test_of_several_receivers_only_those_that_lack_it_get_it(database: str, proxy: MongoProxy) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(member(database, through=proxy.port))
        others = [await stack.enter_async_context(member(database)) for _ in range(3)]
        tokens = [other.node.token for other in others]
        proxy.lose_write(1, "lanes")
        with pytest.raises(StorageUnavailable):
            await one.lanes.send({tokens[0]: numbered(1), tokens[1]: numbered(1)})
        await one.lanes.send({token: numbered(1) for token in tokens})
        await one.lanes.send({token: numbered(2) for token in tokens})
        for other in others:
            assert await receive(other, 2) == [1, 2]


async def test_a_parcel_that_is_larger_than_a_document_arrives_whole(database: str, proxy: MongoProxy) -> None:
    async with member(database, through=proxy.port) as one, member(database) as other:
        to = other.node.token
        big = numbered(1, 3 * parcels.PART)
        await one.lanes.send({to: big})
        await one.lanes.send({to: numbered(2)})
        first, second = [parcel for _ in range(2) for parcel in await other.lanes.receive(0.5)][:2]
        assert first.notes == big.notes
        assert second.notes[0].id == 2


async def test_what_is_left_of_a_parcel_that_was_given_up_is_passed_over(database: str) -> None:
    async with member(database) as one, member(database) as other:
        to = other.node.token
        await one.lanes.send({to: numbered(1, 2 * parcels.PART)})
        first = f"{to:016d} {one.node.token:016d} {1:016d}"
        await one.collections.lanes.delete_many({"_id": {"$ne": first}})  # the rest of it never came
        one.lanes._sent.clear()
        await one.lanes.send({to: numbered(2)})
        await one.lanes.send({to: numbered(3, 2 * parcels.PART)})
        await one.lanes.send({to: numbered(4)})
        assert await receive(other, 3) == [2, 3, 4]


async def test_an_entry_that_is_seen_before_the_one_ahead_of_it_waits(database: str) -> None:
    async with member(database) as one, member(database) as other:
        to = other.node.token
        for n in (1, 2, 3):
            await one.lanes.send({to: numbered(n)})
        hidden = await one.collections.lanes.find_one({"seq": 2})
        assert hidden is not None
        await one.collections.lanes.delete_many({"seq": 2})
        assert await receive(other, 1) == [1]
        assert await other.lanes.receive(0.05) == []
        await one.collections.lanes.insert_one(hidden)
        assert await receive(other, 2) == [2, 3]


async def test_what_was_given_is_removed_and_a_lost_removal_gives_nothing_twice(database: str, proxy: MongoProxy) -> None:
    async with member(database) as one, member(database, through=proxy.port) as other:
        to = other.node.token
        await one.lanes.send({to: numbered(1)})
        assert await receive(other, 1) == [1]
        removed = await one.collections.lanes.find_one({"seq": 1})
        assert removed is not None
        assert await other.lanes.receive(0.0) == []
        assert await one.collections.lanes.count_documents({}) == 0
        await one.collections.lanes.insert_one(removed)  # as after a roll-back of the removal
        await one.lanes.send({to: numbered(2)})
        assert await receive(other, 1) == [2]
        await other.lanes.receive(0.0)
        assert await one.collections.lanes.count_documents({}) == 0


async def test_more_than_a_page_of_one_sender_keeps_no_other_waiting(database: str) -> None:
    async with member(database) as busy, member(database) as quiet, member(database) as receiver:
        to = receiver.node.token
        await quiet.lanes.send({to: numbered(-1)})
        for start in range(0, 1200, 400):
            documents = [
                busy.lanes._document(to, start + n, entry)
                for n in range(1, 401)
                for entry in [{"body": parcels.pack(numbered(start + n), 0)[0], "part": 1, "parts": 1, "parcel": ""}]
            ]
            await busy.collections.lanes.insert_many(documents)
        first = await receiver.lanes.receive(1.0)
        second = await receiver.lanes.receive(1.0)
        assert len(first) == 500
        assert -1 in [parcel.notes[0].id for parcel in [*first, *second]]
        rest = await receive(receiver, 1201 - len(first) - len(second))
        busy_numbers = [p.notes[0].id for p in [*first, *second] if p.notes[0].id > 0] + [n for n in rest if n > 0]
        assert busy_numbers == list(range(1, 1201))


async def test_a_large_stored_message_is_read_from_the_store(database: str, make: Maker) -> None:
    large = make.append("a", ["u/ann"], payload=bytes(parcels.INLINE + 1)).message
    lost = make.append("a", ["u/ann"], payload=bytes(parcels.INLINE + 1)).message
    small = make.append("a", ["u/ann"]).message
    async with member(database) as one, member(database, stored=[large]) as other:
        parcel = Parcel([Wake("u/ann", 1, large), Wake("u/ann", 2, small)], [small, large, lost, small], [lost])
        await one.lanes.send({other.node.token: parcel})
        (came,) = await other.lanes.receive(30.0)
    assert [(wake.seq, fields_of(wake.message)) for wake in came.wakes] == [(1, None), (2, fields_of(small))]
    assert [message.id for message in came.live] == [small.id, large.id, small.id]  # the store has lost the other one
    assert [message.id for message in came.transient] == [lost.id]  # it is stored nowhere, so it comes whole


def test_each_message_is_packed_once(make: Maker) -> None:
    message = make.append("a", payload=bytes(4000)).message
    many = Parcel([Wake(f"u/{n}", 1, message) for n in range(100)], [message])
    assert sum(map(len, parcels.pack(many, 0))) < 4000 + 100 * 60


VALUES = st.recursive(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text("abcdef", min_size=1), VALUES), st.lists(st.binary(max_size=50)), st.integers(0, 3))
@settings(deadline=None)
def test_what_is_packed_comes_out_the_same(body: dict[str, object], payloads: list[bytes], kind: int) -> None:
    messages = [
        Message(n + 1, "a", "u/ann", "phone", n, n % 3, payload, bool(n % 2), n, b"p") for n, payload in enumerate(payloads)
    ]
    parcel = Parcel([Wake("u/ann", n, message) for n, message in enumerate(messages)], messages, messages[:kind])
    parcel.notes = [Note("k", 1, body)]
    came, absent = parcels.unpack(parcels.pack(parcel, 0))
    assert absent == []
    assert came.notes == parcel.notes
    assert [(wake.user, wake.seq, fields_of(wake.message)) for wake in came.wakes] == [
        (wake.user, wake.seq, fields_of(wake.message)) for wake in parcel.wakes
    ]
    assert [fields_of(m) for m in came.live] == [fields_of(m) for m in parcel.live]
    assert [fields_of(m) for m in came.transient] == [fields_of(m) for m in parcel.transient]


async def test_a_receiver_looks_less_often_while_nothing_comes(database: str, proxy: MongoProxy) -> None:
    async with member(database, through=proxy.port) as one:
        if one.lanes._stream is not None:
            pytest.skip("a change stream says when to look")
        proxy.bodies = []
        assert await one.lanes.receive(1.0) == []
        assert 2 <= sum(1 for body in proxy.bodies if body.get("find") == "lanes") <= 60  # 200, where it did not slow down
        other = asyncio.create_task(one.lanes.receive(30.0))
        await one.lanes.send({one.node.token: numbered(1)})
        assert len(await other) == 1


# --- what a change stream brings -------------------------------------------------------------------------------------


@asynccontextmanager
async def hearing(database: str, proxy: MongoProxy, count: int) -> AsyncIterator[tuple[Member, list[dict[str, Any]]]]:
    """A receiver that hears what the test has its stream bring, and what was sent to it; it has looked before."""
    async with member(database) as one, member(database, through=proxy.port) as other:
        await end([other.lanes._stream])
        assert await other.lanes.receive(0.0) == []
        for n in range(count):
            await one.lanes.send({other.node.token: numbered(n)})
        sent = await one.collections.lanes.find().sort("seq", 1).to_list(None)
        other.lanes._streaming, proxy.bodies = True, []
        yield other, sent


def looks(proxy: MongoProxy) -> int:
    return sum(body.get("find") == "lanes" for body in proxy.bodies or ())


async def test_what_a_change_stream_brings_needs_no_look(database: str, proxy: MongoProxy) -> None:
    async with hearing(database, proxy, 3) as (other, sent):
        other.lanes._unsure = False
        for document in [*sent, *sent]:
            other.lanes._hear(document)
        assert [parcel.notes[0].id for parcel in await other.lanes.receive(30.0)] == [0, 1, 2]
        assert looks(proxy) == 0


@pytest.mark.parametrize("heard", [[1], [0, 2], [2, 0], []], ids=str)
async def test_what_a_change_stream_lacks_is_looked_for(database: str, proxy: MongoProxy, heard: list[int]) -> None:
    async with hearing(database, proxy, 3) as (other, sent):
        other.lanes._unsure = False
        for n in heard:
            other.lanes._hear(sent[n])
        assert await receive(other, 3) == [0, 1, 2]
        assert looks(proxy) >= 1


async def test_more_than_a_page_from_a_change_stream_is_not_kept(database: str, proxy: MongoProxy) -> None:
    async with hearing(database, proxy, 1) as (other, sent):
        other.lanes._unsure = False
        for n in range(2000):
            other.lanes._hear({**sent[0], "seq": 2 + n})
            assert len(other.lanes._heard) <= 501
        assert await receive(other, 1) == [0]
