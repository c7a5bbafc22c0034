"""Reading timelines: limits in entries and bytes, both directions, by time, the tail, the listings."""

from __future__ import annotations

import asyncio
import random

import pytest

from storage.interface import Catalogue, Storage, TextTails
from storage.records import DropRetained, Message
from storage.sqlite import SqliteStorage
from tests.storage.conftest import LARGE
from tests.storage.samples import START, Maker, all_retained, collect, fields_of


async def test_an_inbox_is_read_after_an_offset_in_pages(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(20, to=["u/ann"]))
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 7)] == [1, 2, 3, 4, 5, 6, 7]
    assert [e.seq for e in await storage.read_inbox("u/ann", 18, 7)] == [19, 20]
    assert await storage.read_inbox("u/ann", 20, 7) == []
    assert await storage.read_inbox("u/ann", 99, 7) == []
    assert await storage.read_inbox("u/bob", 0, 7) == []


async def test_a_page_of_every_size_holds_whole_messages(storage: Storage, make: Maker) -> None:
    for count in (1, 2, 5, 40):
        before = make.id
        group = [make.append(f"t/{n % 3}", [f"u/{count}"], bytes([n]) * (n * 11), properties=b"p" * n) for n in range(count)]
        await storage.commit(group)
        entries = await storage.read_inbox(f"u/{count}", 0, 100)
        assert [fields_of(e.message) for e in entries] == [fields_of(a.message) for a in group]
        assert [fields_of(m) for m in await storage.read_tail(before, 100)] == [fields_of(a.message) for a in group]


async def test_pages_stop_at_their_bytes_but_give_at_least_one(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(to=["u/ann"], payload=b"x" * 100) for _ in range(6)])
    for max_bytes, expected in ((1, 1), (100, 1), (101, 2), (200, 2), (201, 3), (10_000, 6)):
        assert len(await storage.read_inbox("u/ann", 0, 100, max_bytes)) == expected
        assert len(await storage.read_conversation("a/b", max_bytes=max_bytes)) == expected
        newest = await storage.read_conversation("a/b", newest_first=True, max_bytes=max_bytes)
        assert [message.seq for message in newest] == [6, 5, 4, 3, 2, 1][:expected]
        assert len(await storage.read_tail(0, 100, max_bytes)) == expected
        assert len(await storage.read_inbox("u/ann", 5, 100, max_bytes)) == 1


async def test_a_large_message_comes_whole(storage: Storage, make: Maker) -> None:
    payload = bytes(range(256)) * 8192
    await storage.commit([make.append(to=["u/ann"], payload=payload), make.append(to=["u/ann"])])
    (entry,) = await storage.read_inbox("u/ann", 0, 10)
    assert entry.message is not None
    assert entry.message.payload == payload
    assert len(await storage.read_inbox("u/ann", 0, 10, max_bytes=3 << 20)) == 2


async def test_a_conversation_is_read_both_ways(storage: Storage, make: Maker) -> None:
    await storage.commit([*make.appends(5), *make.appends(3, "other"), *make.appends(5)])

    async def read(**arguments: object) -> list[int]:
        return [m.seq for m in await storage.read_conversation("a/b", **arguments)]  # type: ignore[arg-type]

    assert await read() == list(range(1, 11))
    assert await read(limit=3) == [1, 2, 3]
    assert await read(after=3, limit=3) == [4, 5, 6]
    assert await read(after=3, before=6) == [4, 5]
    assert await read(before=3) == [1, 2]
    assert await read(newest_first=True, limit=3) == [10, 9, 8]
    assert await read(newest_first=True, before=8, limit=3) == [7, 6, 5]
    assert await read(newest_first=True, after=3, before=6) == [5, 4]
    assert await read(after=10) == []
    assert await read(before=1) == []
    assert await read(after=5, before=6) == []


async def test_the_ends_of_many_conversations_are_told_at_once(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(f"t/{n:03}", time=START + 10 * n + again) for again in (0, 3) for n in range(300)])
    await storage.commit(
        [make.append("old", time=START), make.append("old", time=START + 1), make.append("é\"'/ü", time=START)]
    )
    await storage.prune_conversation("old", 3)
    asked = ["t/299", "old", "none", "t/000", "é\"'/ü", "t/299"]
    assert await storage.newest(asked) == [(2, START + 2993), (0, 0), (0, 0), (2, START + 3), (1, START), (2, START + 2993)]
    every = await storage.newest([f"t/{n:03}" for n in range(300)])
    assert every == [(2, START + 10 * n + 3) for n in range(300)]
    assert await storage.newest([]) == []


async def test_a_conversation_by_time(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(time=START + t) for t in (10, 20, 20, 20, 30)])

    async def at(time: int) -> int:
        return await storage.sequence_at("a/b", START + time)

    assert [await at(t) for t in (0, 10, 11, 20, 21, 30, 31)] == [1, 1, 2, 2, 5, 5, 6]
    await storage.prune_conversation("a/b", 4)
    assert [await at(t) for t in (0, 20, 21, 31)] == [4, 4, 5, 6]
    await storage.prune_conversation("a/b", 9)
    assert [await at(t) for t in (0, 31)] == [6, 6]


@LARGE
async def test_a_long_conversation_by_time(storage: Storage, make: Maker) -> None:
    for _ in range(5):
        await storage.commit([make.append(time=START + 10 * make.id) for _ in range(100)])
    for seq in (1, 2, 77, 250, 499, 500):
        time = START + 10 * (seq - 1)
        assert [await storage.sequence_at("a/b", time + d) for d in (-9, 0, 1)] == [seq, seq, seq + 1]


async def test_the_tail_has_everything_in_commit_order(storage: Storage, make: Maker) -> None:
    group = [make.append(f"t/{n % 4}") for n in range(30)]
    await storage.commit(group[:10])
    await storage.commit(group[10:])
    first = await storage.read_tail(0, 12)
    rest = await storage.read_tail(first[-1].id, 100)
    assert [fields_of(m) for m in first + rest] == [fields_of(a.message) for a in group]
    assert await storage.last_id() == group[-1].message.id
    assert await storage.read_tail(group[-1].message.id, 10) == []


async def test_ids_may_have_gaps(storage: Storage, make: Maker) -> None:
    big = (1 << 62) + 5
    for id in (7, 1000, big):
        make.id = id - 1
        await storage.commit([make.append(to=["u/ann"], time=START)])
    assert [m.id for m in await storage.read_tail(7, 10)] == [1000, big]
    assert await storage.last_id() == big
    message = await storage.read_message(big)
    assert message is not None
    assert message.seq == 3


async def test_retained_messages_are_replaced_and_cleared(storage: Storage, make: Maker) -> None:
    first, second = make.append("r/1", retain=True), make.append("r/2", retain=True, properties=b"pp", expires=START + 5)
    await storage.commit([first, second, make.append("r/1"), make.append("r/3")])
    assert {m.topic: fields_of(m) for m in await all_retained(storage)} == {
        "r/1": fields_of(first.message),
        "r/2": fields_of(second.message),
    }
    replaced = make.append("r/1", retain=True)
    await storage.commit([make.append("r/1", retain=True), replaced, make.append("r/2", retain=True, payload=b"")])
    assert [fields_of(m) for m in await all_retained(storage)] == [fields_of(replaced.message)]
    assert await storage.conversation_bounds("r/2") == (1, 2)
    last = make.append("r/1", retain=True)
    await storage.commit([make.append("r/1", retain=True, payload=b""), last])
    assert [fields_of(m) for m in await all_retained(storage)] == [fields_of(last.message)]


async def test_retained_messages_are_dropped_by_id(storage: Storage, make: Maker) -> None:
    """One that was replaced meanwhile stays, also in the same group; the last id is not forgotten with its message."""
    dropped, replaced, kept = (make.append(topic, retain=True) for topic in ("r/1", "r/2", "r/3"))
    await storage.commit([dropped, replaced, kept])
    newer, newest = make.append("r/2", retain=True), make.append("r/4", retain=True, store=False)
    ids = [(append.message.topic, append.message.id) for append in (dropped, replaced, newest)]
    await storage.commit([newest, make.append("r/5")])
    drop = DropRetained([*ids, ("never", 77)])
    await storage.commit([newer, drop])
    assert drop.error is None
    assert {m.topic: fields_of(m) for m in await all_retained(storage)} == {
        append.message.topic: fields_of(append.message) for append in (newer, kept)
    }
    assert await storage.conversation_bounds("r/1") == (1, 1)
    await storage.commit([drop])
    last = make.append("r/6", retain=True, store=False)
    await storage.commit([last])
    await storage.commit([DropRetained([("r/6", last.message.id)])])
    assert await storage.last_id() == last.message.id


async def test_the_tail_of_a_node_ends_where_it_is_complete(storage: Storage, make: Maker) -> None:
    group = make.appends(30, "t", ["u/ann"])
    await storage.commit(group)
    tails = await storage.tails()
    if len(tails) > 1:
        pytest.skip("the ids of this suite have the number of one node")
    assert tails == {0: group[-1].message.id}
    await storage.commit(make.appends(5, "t"))
    found: list[int] = []
    position = 0
    while position < tails[0]:
        page, position = await storage.read_tail_of(0, position, tails[0], 7)
        found += [message.id for message in page]
    assert found == [append.message.id for append in group]


def _is_text(payload: bytes) -> bool:
    try:
        return "\0" not in payload.decode()
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("read_only", [False, True])
async def test_texts_are_read_past_what_is_none(storage: Storage, make: Maker, read_only: bool) -> None:
    """No text is passed over, whatever it begins with, nor what has properties; most of the rest is."""
    if not isinstance(storage, TextTails):
        pytest.skip("reads all that is stored")
    rng = random.Random(5)
    first = [bytes([one]) + more for one in range(256) for more in (b"", b" text", bytes([one]) * 3)]
    texts = ["é", "会议", "\U0001f600", "", "x" * 300, "x" * 300 + "\0", "\x7f"]
    payloads = [*first, *(text.encode() for text in texts), *(rng.randbytes(rng.randrange(64)) for _ in range(500))]
    group = [make.append("t", payload=payload) for payload in payloads]
    group += [make.append("t", payload=b"\xff" * 64, properties=b"p")]
    group += [make.append("t", payload=b"\xff" * 64) for _ in range(200)]
    rng.shuffle(group)
    group.append(make.append("t", payload=b"\0"))
    group.sort(key=lambda append: append.message.id)
    await storage.commit(group)
    end = group[-2].message.id
    store = SqliteStorage(storage._path, read_only=True) if read_only and isinstance(storage, SqliteStorage) else storage
    assert isinstance(store, TextTails)
    if store is not storage:
        await store.open()
    for limit, max_bytes in ((7, 1 << 20), (1000, 1 << 20), (1000, 100)):
        found: list[Message] = []
        position = passed = 0
        while True:
            page = await store.read_texts_of(0, position, end, limit, max_bytes)
            assert len(page.messages) <= limit
            assert sum(len(message.payload) for message in page.messages[:-1]) < max_bytes
            found += page.messages
            position, passed = page.position, passed + page.passed
            if not page.messages and not page.passed:
                break
        assert position == end
        assert passed + len(found) == len(group) - 1
        assert passed > 500
        wanted = {a.message.id for a in group[:-1] if a.message.properties or _is_text(a.message.payload)}
        assert wanted <= {message.id for message in found}
        stored = {append.message.id: fields_of(append.message) for append in group}
        assert [fields_of(message) for message in found] == [stored[message.id] for message in found]
        assert [message.id for message in found] == sorted(message.id for message in found)
    if store is not storage:
        await store.close()


@LARGE
async def test_many_retained_messages(storage: Storage, make: Maker) -> None:
    group = [make.append(f"r/{n}", retain=True, store=n % 2 == 0) for n in range(700)]
    await storage.commit(group)
    found = {m.id: fields_of(m) for m in await all_retained(storage)}
    assert found == {a.message.id: fields_of(a.message) for a in group}


async def test_the_catalogue_lists_timelines(storage: Storage, make: Maker) -> None:
    if not isinstance(storage, Catalogue):
        pytest.skip("lists nothing")
    await storage.commit([make.append(f"t/{n:03}", [f"u/{n % 10}"]) for n in range(300)])
    await storage.commit([*make.appends(3, "a%b_c", ["u/0"]), make.append("a%bxc"), make.append("A%b"), make.append("é")])
    await storage.prune_conversation("a%b_c", 3)
    await storage.prune_inbox("u/0", 4)
    assert await collect(storage.conversations("t/")) == [(f"t/{n:03}", 1, 1) for n in range(300)]
    assert await collect(storage.conversations("a%b_")) == [("a%b_c", 3, 3)]
    assert await collect(storage.conversations("a%")) == [("a%b_c", 3, 3), ("a%bxc", 1, 1)]
    assert await collect(storage.conversations("t/", "t/297")) == [("t/298", 1, 1), ("t/299", 1, 1)]
    assert await collect(storage.conversations("t/29", "a")) == [(f"t/{n}", 1, 1) for n in range(290, 300)]
    assert await collect(storage.conversations("t/", "u")) == []
    assert [topic for topic, _, _ in await collect(storage.conversations(after="t/299"))] == ["é"]
    every = [topic for topic, _, _ in await collect(storage.conversations())]
    assert every == sorted(every, key=str.encode)
    assert len(every) == 304
    inboxes = {user: (first, last) for user, first, last in await collect(storage.inboxes())}
    assert inboxes == {"u/0": (4, 33)} | {f"u/{n}": (1, 30) for n in range(1, 10)}


async def test_reads_run_beside_commits(storage: Storage, make: Maker) -> None:
    """Readers only ever see committed, gap-free prefixes while groups are being committed."""
    done = asyncio.Event()
    seen = 0

    async def read() -> int:
        highest = rounds = 0
        while not done.is_set() or rounds < 3:
            rounds += 1
            after = max(0, highest - 3)
            entries = await storage.read_inbox("u/ann", after, 50)
            assert [e.seq for e in entries] == list(range(after + 1, after + 1 + len(entries)))
            for entry in entries:
                assert entry.message is not None
                assert entry.message.seq == entry.seq
            if entries:
                assert entries[-1].seq >= highest
                highest = entries[-1].seq
            head = await storage.inbox_head("u/ann")
            assert head >= highest
            await asyncio.sleep(0)
        return highest

    readers = [asyncio.create_task(read()) for _ in range(3)]
    for _ in range(40):
        group = make.appends(5, to=["u/ann"])
        await storage.commit(group)
        seen = group[-1].message.seq
        assert (await storage.read_inbox("u/ann", seen - 1, 5))[0].seq == seen
    done.set()
    assert await asyncio.gather(*readers)
    assert seen == 200


async def test_messages_by_their_ids(storage: Storage, make: Maker) -> None:
    group = [make.append(f"t/{n}") for n in range(3)]
    await storage.commit(group)
    first, _, last = (op.message.id for op in group)
    assert [m.id for m in await storage.read_messages([last, last + 1, first])] == [last, first], "in the order asked for"
    assert await storage.read_messages([]) == []
