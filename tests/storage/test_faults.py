"""Storage that is away, and commits whose answer was lost: nothing lost, nothing doubled, the same group again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.records import (
    Append,
    CloseSession,
    DeviceKey,
    Inflight,
    InflightState,
    Operation,
    Progress,
    Release,
    Subscribe,
    Unsubscribe,
)
from tests.storage.backends import Backend
from tests.storage.samples import (
    START,
    Maker,
    device_fields,
    everything,
    fields_of,
    opened,
    subscribe,
    whole_conversation,
    whole_inbox,
)

ANN = DeviceKey("u/ann", "phone")
BOB = DeviceKey("u/bob", "pad")
TOPICS, USERS = ["a", "b", "r"], ["u/ann", "u/bob"]


async def _prepare(storage: Storage, make: Maker) -> list[Operation]:
    """Commit a beginning; return a group with every kind of operation."""
    kept = make.append("r", retain=True)
    await storage.commit([opened(ANN), subscribe(ANN, "a", "b"), kept, make.append("a", USERS, received=(ANN, 1))])
    return [
        make.append("a", USERS),
        make.append("a", ["u/ann"], received=(ANN, 2)),
        Release(ANN, 1),
        opened(BOB, 3, at=START),
        subscribe(BOB, "r", "a", epoch=3, retained=[kept.message]),
        make.append("b", USERS, idempotency_key="k", idempotency_until=START + 10_000, payload=b"once"),
        make.append("b", USERS, idempotency_key="k", idempotency_until=START + 10_000, payload=b"once"),
        make.append("r", retain=True, payload=b"new"),
        Unsubscribe(ANN, 1, ["b"]),
        Progress(ANN, 1, 1, 2, [Inflight(4, 2, InflightState.PUBLISHED_1)]),
        subscribe(ANN, "c"),
        CloseSession(ANN, 1, False, expiry=5, expires_at=START + 5),
        make.append("a", USERS),
    ]


def _results(group: list[Operation]) -> list[object]:
    results: list[object] = []
    for op in group:
        if isinstance(op, Append):
            results.append((fields_of(op.message), list(op.inbox_seqs), op.original, op.error))
        elif isinstance(op, Subscribe):
            results.append(([s.since for s in op.subscriptions], list(op.retained_seqs), op.error))
        else:
            results.append((getattr(op, "created", None), getattr(op, "head", None), getattr(op, "offset", None), op.error))
    return results


async def _expected(backend_class: Callable[[], Backend]) -> tuple[list[object], dict[str, object]]:
    """Results and content where nothing went wrong."""
    backend, make = backend_class(), Maker()
    storage = await backend.open()
    group = await _prepare(storage, make)
    await storage.commit(group)
    result = _results(group), await everything(storage, TOPICS, USERS)
    await storage.close()
    await backend.destroy()
    return result


async def test_a_storage_that_is_away_commits_nothing_and_takes_the_group_later(faulty: Backend, make: Maker) -> None:
    storage = await faulty.open()
    group = await _prepare(storage, make)
    before = await everything(storage, TOPICS, USERS)
    async with faulty.away(storage):
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await storage.commit(group)
    assert await everything(storage, TOPICS, USERS) == before
    await storage.commit(group)
    other = faulty.directory / "other"
    other.mkdir()
    results, content = await _expected(lambda: type(faulty)(other))
    assert _results(group) == results
    assert await everything(storage, TOPICS, USERS) == content
    await storage.close()


@pytest.mark.inside
async def test_a_lost_answer_is_found_out_and_nothing_is_stored_twice(faulty: Backend, make: Maker) -> None:
    storage = await faulty.open()
    group = await _prepare(storage, make)
    faulty.lose_answer(storage)
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    await storage.commit(group)
    other = faulty.directory / "other"
    other.mkdir()
    results, content = await _expected(lambda: type(faulty)(other))
    assert _results(group) == results
    assert await everything(storage, TOPICS, USERS) == content
    after = make.append("a", USERS)
    await storage.commit([after])
    assert (after.message.seq, list(after.inbox_seqs)) == (5, [6, 6])
    await storage.close()


@pytest.mark.inside
async def test_a_lost_answer_then_away_then_back(faulty: Backend, make: Maker) -> None:
    storage = await faulty.open()
    group = [make.append("a", USERS) for _ in range(70)]
    faulty.lose_answer(storage)
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    async with faulty.away(storage):
        with suppress(StorageUnavailable):  # a backend that can still read may find the group, and be content
            await storage.commit(group)
    await storage.commit(group)
    assert [a.message.seq for a in group] == list(range(1, 71))
    assert [list(a.inbox_seqs) for a in group] == [[n, n] for n in range(1, 71)]
    assert len(await whole_conversation(storage, "a")) == 70
    assert len(await whole_inbox(storage, "u/bob")) == 70
    await storage.close()


@pytest.mark.inside
async def test_a_lost_answer_without_any_message(faulty: Backend, make: Maker) -> None:
    storage = await faulty.open()
    kept = make.append("r", retain=True)
    await storage.commit([opened(ANN), kept])
    first = opened(BOB, 9, at=START)
    group: list[Operation] = [subscribe(ANN, "r", retained=[kept.message]), first]
    faulty.lose_answer(storage)
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    await storage.commit(group)
    assert await storage.inbox_head("u/ann") == 1
    assert first.created
    device = device_fields(await storage.device(BOB))
    assert device is not None
    assert device["epoch"] == 9
    await storage.close()


async def test_a_stored_message_is_known_by_its_id_after_a_restart(durable: Backend, make: Maker) -> None:
    """Another process may not know that its predecessor's group got through."""
    storage = await durable.open()
    stored = [make.append("a", USERS), make.append("b", ["u/bob"])]
    await storage.commit(stored)
    storage = await durable.reopen(storage)
    again = [Append(_unstored(a), recipients=a.recipients) for a in stored]
    new = make.append("a", USERS)
    await storage.commit([again[0], new, again[1]])
    assert [(a.message.seq, list(a.inbox_seqs), a.error) for a in again] == [(1, [1, 1], None), (1, [2], None)]
    assert (new.message.seq, list(new.inbox_seqs)) == (2, [2, 3])
    assert len(await whole_conversation(storage, "a")) == 2
    assert len(await whole_inbox(storage, "u/bob")) == 3
    await storage.close()


def _unstored(append: Append):  # type: ignore[no-untyped-def]
    m = append.message
    return type(m)(m.id, m.topic, m.user, m.device, m.time, m.qos, m.payload, m.retain, m.expires, m.properties)
