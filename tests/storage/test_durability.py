"""What was committed is there after a restart, all of it; a closed storage stays closed."""

from __future__ import annotations

from storage.records import CloseSession, DeviceKey, Inflight, InflightState, Operation, Progress, Release, Unsubscribe
from tests.storage.backends import Backend
from tests.storage.samples import START, Maker, everything, opened, subscribe

ANN, PAD, BOB = DeviceKey("u/ann", "phone"), DeviceKey("u/ann", "pad"), DeviceKey("c/bob", "bob")
TOPICS, USERS = ["a", "b/c", "r", "pruned"], ["u/ann", "c/bob", "s/g/a/#"]


def _groups(make: Maker) -> list[list[Operation]]:
    kept = make.append("r", retain=True)
    return [
        [opened(ANN), subscribe(ANN, "a", "b/#"), opened(PAD, 4, will=b"\0will", at=START), opened(BOB)],
        [kept, *make.appends(40, "a", USERS), *make.appends(9, "pruned", ["u/ann"])],
        [subscribe(BOB, "r", retained=[kept.message]), make.append("b/c", USERS, received=(ANN, 9), expires=START + 7)],
        [
            Progress(ANN, 1, 3, 5, [Inflight(2, 4, InflightState.PUBLISHED_2)]),
            CloseSession(PAD, 4, False, 60, START + 60, b"w", START + 1),
        ],
        [make.append("a", received=(BOB, 5)), make.append("a", received=(BOB, 6)), Release(BOB, 5), Unsubscribe(ANN, 1, ["a"])],
        [make.append("r", store=False, retain=True, properties=b"xyz")],
    ]


async def test_a_restart_changes_nothing(durable: Backend, make: Maker) -> None:
    storage = await durable.open()
    for group in _groups(make):
        await storage.commit(group)
    await storage.prune_conversation("pruned", 5)
    await storage.prune_inbox("u/ann", 12)
    before = await everything(storage, TOPICS, USERS)
    storage = await durable.reopen(storage)
    assert await everything(storage, TOPICS, USERS) == before
    append = make.append("a", USERS)
    await storage.commit([append])
    assert append.message.seq == 43
    heads = before["heads"]
    assert isinstance(heads, dict)
    assert list(append.inbox_seqs) == [heads[user] + 1 for user in USERS]
    await storage.close()


async def test_idempotency_keys_survive_a_restart(durable: Backend, make: Maker) -> None:
    storage = await durable.open()
    await storage.commit([make.append(payload=b"x", idempotency_key="k", idempotency_until=START + 1000)])
    storage = await durable.reopen(storage)
    again = make.append(payload=b"x", idempotency_key="k", idempotency_until=START + 1000)
    await storage.commit([again])
    assert again.original == (1, 1)
    await storage.close()


async def test_many_restarts_leave_no_gap(durable: Backend, make: Maker) -> None:
    storage = await durable.open()
    for count in (1, 3, 70, 2, 5):
        await storage.commit(make.appends(count, to=["u/ann"]))
        storage = await durable.reopen(storage)
    assert [m.seq for m in await storage.read_conversation("a/b", limit=1000)] == list(range(1, 82))
    assert [e.seq for e in await storage.read_inbox("u/ann", 0, 1000)] == list(range(1, 82))
    await storage.close()


async def test_closing_twice_is_closing_once(backend: Backend, make: Maker) -> None:
    storage = await backend.open()
    await storage.commit([make.append()])
    await storage.close()
    await storage.close()
