"""What only `memory://` promises: its bounds."""

from __future__ import annotations

from storage.errors import MessageRefused
from storage.memory import ENTRY_OVERHEAD, OVERHEAD, MemoryStorage
from storage.records import DeviceKey, MarkRead
from tests.storage.samples import Maker, collect, opened, subscribe


async def test_the_oldest_messages_leave_their_timelines(make: Maker) -> None:
    storage = MemoryStorage(max_messages=10)
    await storage.commit([make.append("old", ["u/ann"]), *make.appends(12, "new", ["u/ann"])])
    assert await storage.conversation_bounds("old") == (2, 1)
    assert await storage.conversation_bounds("new") == (3, 12)
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 100)] == list(range(4, 14))
    assert [m.seq for m in await storage.read_tail(0, 100)] == list(range(3, 13))
    assert await storage.read_message(1) is None
    append = make.append("old", ["u/ann"])
    await storage.commit([append])
    assert (append.message.seq, list(append.inbox_seqs)) == (2, [14])


async def test_bytes_are_bounded(make: Maker) -> None:
    size = 1000 + OVERHEAD + ENTRY_OVERHEAD
    storage = MemoryStorage(max_bytes=10 * size)
    for _ in range(25):
        await storage.commit([make.append(to=["u/ann"], payload=b"x" * 1000)])
    assert await storage.conversation_bounds("a/b") == (16, 25)
    too_large = make.append(payload=b"x" * 10 * size)
    await storage.commit([too_large])
    assert isinstance(too_large.error, MessageRefused)
    assert await storage.conversation_bounds("a/b") == (16, 25)


async def test_entries_of_retained_messages_count(make: Maker) -> None:
    storage = MemoryStorage(max_messages=10)
    key = DeviceKey("u/ann", "phone")
    kept = make.append("r", retain=True)
    await storage.commit([opened(key), kept])
    for _ in range(30):
        await storage.commit([subscribe(key, "r", retained=[kept.message])])
    entries = await storage.read_inbox("u/ann", 0, 100)
    assert [e.seq for e in entries] == list(range(21, 31))
    assert {e.message for e in entries} == {kept.message}  # the conversation let it go; the retained one stays


async def test_pruning_and_eviction_go_together(make: Maker) -> None:
    storage = MemoryStorage(max_messages=10)
    await storage.commit(make.appends(8, "a", ["u/ann"]))
    assert await storage.prune_conversation("a", 6) == 5
    assert await storage.prune_inbox("u/ann", 4) == 3
    await storage.commit(make.appends(6, "b", ["u/ann"]))
    assert await storage.conversation_bounds("a") == (6, 8)
    assert [m.topic for m in await storage.read_tail(0, 100)] == ["a"] * 3 + ["b"] * 6
    await storage.commit(make.appends(4, "b", ["u/ann"]))
    assert await storage.conversation_bounds("a") == (9, 8)
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 100)] == list(range(9, 19))


async def test_empty_conversations_are_forgotten_in_the_end(make: Maker) -> None:
    storage = MemoryStorage(max_messages=10)
    for n in range(40):
        await storage.commit([make.append(f"t/{n}")])
    assert len(await collect(storage.conversations())) == 20
    assert await storage.conversation_bounds("t/0") == (1, 0)
    assert await storage.conversation_bounds("t/29") == (2, 1)


async def test_a_read_position_does_not_pass_a_conversation_that_began_anew(make: Maker) -> None:
    storage = MemoryStorage(max_messages=2)
    await storage.commit([*make.appends(2, "a"), MarkRead("u/ann", "a", 2)])
    for n in range(5):  # "a" is empty for longer than its head is kept
        await storage.commit(make.appends(1, f"other/{n}"))
    mark = MarkRead("u/ann", "a", 1)
    await storage.commit([make.append("a"), mark])
    assert (mark.position, mark.last) == (1, 1)
