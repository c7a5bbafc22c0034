"""What a test can do to a node in memory: freeze its calls on either side of their effect, take its database away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from storage.cluster import Node, Parcel
from storage.errors import FencedOut, StorageUnavailable
from storage.memory import MemoryDatabase, MemoryNode, MemoryStorage
from storage.records import Append, DeviceKey, DropRow, Operation, PutRow
from tests.cluster_storage.backends import part_of
from tests.storage.samples import Maker, opened, subscribe
from tests.support.until import until

ANN, BOB = DeviceKey("u/ann", "phone"), DeviceKey("u/bob", "pad")


async def two() -> tuple[MemoryNode, MemoryNode]:
    database = MemoryDatabase(now=lambda: 1_000)
    nodes = MemoryNode(database, "one"), MemoryNode(database, "other")
    for node in nodes:
        await node.open()
    return nodes


async def test_one_node_alone_has_no_cluster() -> None:
    assert MemoryStorage().cluster is None


@pytest.mark.parametrize("after", [False, True])
async def test_a_frozen_call_waits_before_or_after_its_effect(make: Maker, after: bool) -> None:
    one, other = await two()
    one.faults.freeze(after=after)
    committing = asyncio.create_task(one.commit([make.append("a", ["u/ann"])]))
    await until(lambda: one.faults.waiting == ["commit"])
    assert await other.inbox_head("u/ann") == int(after)
    one.faults.thaw()
    await committing
    assert await other.inbox_head("u/ann") == 1


async def test_a_node_that_was_marked_dead_while_it_was_frozen_has_changed_nothing(make: Maker) -> None:
    one, other = await two()
    one.faults.freeze()
    calls = [
        asyncio.create_task(one.commit([make.append("a", ["u/ann"])])),
        asyncio.create_task(part_of(one).send({2: Parcel()})),
    ]
    await until(lambda: len(one.faults.waiting) == len(calls))
    seen: Node = (await part_of(other).nodes())[0]
    assert await part_of(other).mark_dead(seen)
    one.faults.thaw()
    assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [FencedOut] * len(calls)
    assert await other.inbox_head("u/ann") == 0


async def test_a_commit_whose_answer_was_lost_is_the_same_the_second_time(make: Maker) -> None:
    one, _ = await two()
    kept = make.append("r", retain=True)
    await one.commit([kept])
    group: list[Operation] = [opened(ANN), subscribe(ANN, "r", retained=[kept.message]), make.append("a", ["u/ann"])]
    one.faults.lose_answers = True
    with pytest.raises(StorageUnavailable):
        await one.commit(group)
    one.faults.lose_answers = False
    await one.commit(group)
    assert await one.inbox_head("u/ann") == 2
    assert len(await part_of(one).routes_after(0)) == 1


async def test_parcels_whose_answer_was_lost_come_again() -> None:
    one, other = await two()
    await part_of(one).send({part_of(other).me.token: Parcel()})
    other.faults.lose_answers = True
    with pytest.raises(StorageUnavailable):
        await part_of(other).receive(1.0)
    other.faults.lose_answers = False
    assert len(await part_of(other).receive(1.0)) == 1
    assert await part_of(other).receive(0.0) == []


async def stopped_at(node: MemoryNode, call: str, group: list[Operation]) -> asyncio.Task[None]:
    """A commit of the node that has come so far."""
    node.faults.freeze_at(call)
    committing = asyncio.create_task(node.commit(group))
    await until(lambda: node.faults.waiting == [call])
    return committing


async def test_what_a_node_has_stored_and_not_fanned_out_is_finished_by_another(make: Maker) -> None:
    one, other = await two()
    await one.commit([opened(ANN)])
    message = make.append("a", ["u/bob", "u/cat"], received=(ANN, 7))
    committing = await stopped_at(one, "commit inboxes", [message])
    assert (await other.conversation_bounds("a"), await other.inbox_head("u/bob")) == ((1, 1), 0)
    finished = await part_of(other).finish(part_of(one).me.token)
    assert (finished.entries, sorted(finished.heads)) == (2, [("u/bob", 1), ("u/cat", 1)])
    stored = await other.device(ANN)
    assert stored is not None
    assert stored.received == {7}
    one.faults.thaw()
    await committing
    assert (list(message.inbox_seqs), await other.inbox_head("u/bob")) == ([1, 1], 1)


async def test_rows_of_a_message_that_is_stored_are_written_by_another_and_once(make: Maker) -> None:
    one, other = await two()
    message = make.append("a")
    put, alone = PutRow("t", "p", "of it", b"1", of=message), PutRow("t", "p", "of nothing", b"2")
    committing = await stopped_at(one, "commit devices", [message, put, alone])
    for _ in range(2):
        await part_of(other).finish(part_of(one).me.token)
    assert [row.key for row in await other.rows("t", "p")] == ["of it"]
    await other.commit([DropRow("t", "p", "of it")])
    one.faults.thaw()
    await committing
    assert [row.key for row in await other.rows("t", "p")] == ["of nothing"]


async def test_a_node_that_is_marked_dead_in_the_middle_of_a_commit_makes_the_write_that_is_on_its_way_and_no_other(
    make: Maker,
) -> None:
    one, other = await two()
    committing = await stopped_at(one, "commit store", [make.append("a", ["u/bob"])])
    assert await part_of(other).mark_dead((await part_of(other).nodes())[0])
    one.faults.thaw()
    with pytest.raises(FencedOut):
        await committing
    assert (await other.conversation_bounds("a"), await other.inbox_head("u/bob")) == ((1, 1), 0)


async def test_who_subscribes_before_a_message_is_retained_is_matched_again(make: Maker) -> None:
    """Who subscribes after it reads the message as a retained one."""
    one, other = await two()

    async def rematch(appends: Sequence[Append]) -> None:
        (append,) = appends
        assert [message.payload for message in await other.retained_range("", "", 10)] == [append.message.payload]
        append.recipients = ["u/bob"]

    part_of(one).rematch = rematch
    committing = await stopped_at(one, "commit store", [make.append("r", retain=True)])
    await other.commit([opened(BOB), subscribe(BOB, "r")])
    one.faults.thaw()
    await committing
    assert await other.inbox_head("u/bob") == 1
