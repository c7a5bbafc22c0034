"""Pruning from the old end: bounded, counted, and heads survive it; and what inboxes still point to."""

from __future__ import annotations

from storage.interface import Pointer, Storage
from storage.records import DeviceKey, Subscribe, Subscription
from tests.storage.backends import Backend
from tests.storage.conftest import LARGE
from tests.storage.samples import Maker, opened, whole_inbox


async def test_pruning_a_conversation_moves_its_first_kept_sequence(storage: Storage, make: Maker) -> None:
    await storage.commit([*make.appends(10), *make.appends(2, "other")])
    assert await storage.prune_conversation("a/b", 1) == 0
    assert await storage.prune_conversation("a/b", 6, limit=3) == 3
    assert await storage.conversation_bounds("a/b") == (4, 10)
    assert await storage.prune_conversation("a/b", 6) == 2
    assert await storage.prune_conversation("a/b", 6) == 0
    assert await storage.conversation_bounds("a/b") == (6, 10)
    assert [m.seq for m in await storage.read_conversation("a/b")] == [6, 7, 8, 9, 10]
    assert [m.seq for m in await storage.read_conversation("a/b", after=2, newest_first=True)] == [10, 9, 8, 7, 6]
    assert await storage.conversation_bounds("other") == (1, 2)
    assert await storage.prune_conversation("unknown", 6) == 0


async def test_a_conversation_goes_on_after_all_of_it_was_pruned(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(5))
    assert await storage.prune_conversation("a/b", 1000) == 5
    assert await storage.conversation_bounds("a/b") == (6, 5)
    assert await storage.last_id() == 5
    append = make.append()
    await storage.commit([append])
    assert append.message.seq == 6
    assert await storage.conversation_bounds("a/b") == (6, 6)


async def test_an_inbox_goes_on_after_all_of_it_was_pruned(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(5, to=["u/ann"]))
    assert await storage.prune_inbox("u/ann", 4, limit=2) == 2
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 10)] == [3, 4, 5]
    assert await storage.prune_inbox("u/ann", 1000) == 3
    assert await storage.inbox_head("u/ann") == 5
    assert await storage.read_inbox("u/ann", 0, 10) == []
    append = make.append(to=["u/ann"])
    await storage.commit([append])
    assert list(append.inbox_seqs) == [6]
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 10)] == [6]
    assert await storage.prune_inbox("u/nobody", 5) == 0


async def test_entries_of_removed_messages_come_without_them(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append("a", ["u/ann"]), make.append("b", ["u/ann"]), make.append("a", ["u/ann"])])
    await storage.prune_conversation("a", 2)
    assert [(e.seq, e.message and e.message.topic) for e in await storage.read_inbox("u/ann", 0, 10)] == [
        (1, None),
        (2, "b"),
        (3, "a"),
    ]
    await storage.prune_conversation("a", 3)
    assert [(e.seq, e.message and e.message.topic) for e in await storage.read_inbox("u/ann", 0, 10)] == [
        (1, None),
        (2, "b"),
        (3, None),
    ]


async def test_pruning_an_inbox_leaves_the_conversation(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(3, to=["u/ann", "u/bob"]))
    await storage.prune_inbox("u/ann", 10)
    assert await storage.conversation_bounds("a/b") == (1, 3)
    assert len(await whole_inbox(storage, "u/bob")) == 3


@LARGE
async def test_more_than_one_step_of_pruning(storage: Storage, make: Maker) -> None:
    for _ in range(5):
        await storage.commit(make.appends(700, to=["u/ann"]))
    assert await storage.prune_conversation("a/b", 3001) == 1000
    assert await storage.prune_conversation("a/b", 3001, limit=10_000) == 2000
    assert await storage.prune_inbox("u/ann", 3001, limit=10_000) == 3000
    assert await storage.conversation_bounds("a/b") == (3001, 3500)
    assert (await storage.read_inbox("u/ann", 0, 1))[0].seq == 3001


async def test_heads_and_the_last_id_survive_pruning_and_a_restart(durable: Backend, make: Maker) -> None:
    storage = await durable.open()
    await storage.commit(make.appends(5, to=["u/ann"]))
    assert await storage.prune_conversation("a/b", 100) == 5
    assert await storage.prune_inbox("u/ann", 100) == 5
    storage = await durable.reopen(storage)
    assert await storage.conversation_bounds("a/b") == (6, 5)
    assert await storage.inbox_head("u/ann") == 5
    assert await storage.last_id() == 5
    append = make.append(to=["u/ann"])
    await storage.commit([append])
    assert (append.message.seq, list(append.inbox_seqs)) == (6, [6])
    await storage.close()


async def test_inboxes_tell_their_first_kept_sequence(storage: Storage, make: Maker) -> None:
    assert await storage.inbox_bounds("u/ann") == (1, 0)
    await storage.commit(make.appends(5, to=["u/ann"]))
    assert await storage.inbox_bounds("u/ann") == (1, 5)
    await storage.prune_inbox("u/ann", 3)
    assert await storage.inbox_bounds("u/ann") == (3, 5)
    await storage.prune_inbox("u/ann", 100)
    assert await storage.inbox_bounds("u/ann") == (6, 5)


async def test_pointers_say_which_messages_an_inbox_holds(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append("a", ["u/ann"]), make.append("b"), make.append("b", ["u/bob", "u/ann"])])
    await storage.commit(make.appends(2, "a", ["u/ann"]))
    assert await storage.read_pointers("u/ann", 0) == [
        Pointer(1, "a", 1),
        Pointer(2, "b", 2),
        Pointer(3, "a", 2),
        Pointer(4, "a", 3),
    ]
    assert await storage.read_pointers("u/ann", 1, limit=2) == [Pointer(2, "b", 2), Pointer(3, "a", 2)]
    assert await storage.read_pointers("u/bob", 1) == []
    assert await storage.read_pointers("u/nobody", 0) == []
    await storage.prune_conversation("a", 3)
    await storage.prune_inbox("u/ann", 2)
    assert await storage.read_pointers("u/ann", 0) == [Pointer(2, "b", 2), Pointer(3, "", 0), Pointer(4, "a", 3)]


async def test_a_retained_message_outlives_its_conversation(storage: Storage, make: Maker) -> None:
    key = DeviceKey("u/ann", "phone")
    append = make.append("a", retain=True)
    await storage.commit([append, opened(key)])
    await storage.prune_conversation("a", 2)
    await storage.commit([Subscribe(key, 1, [Subscription("a", 1, since=-1)], retained=[append.message])])
    assert await storage.read_pointers("u/ann", 0) == [Pointer(1, "", 0)]
    (entry,) = await storage.read_inbox("u/ann", 0, 10)
    assert entry.message is not None
    assert entry.message.payload == append.message.payload
