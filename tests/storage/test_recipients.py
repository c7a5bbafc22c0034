"""Who has one message, and how far its recipients have read."""

from __future__ import annotations

import random

from storage.interface import NEAR, Storage
from storage.records import NEVER, DeviceKey, Join, MarkRead, OpenSession, Subscribe, Subscription
from tests.storage.samples import Maker

USERS = ("u/ann", "u/bob", "c/cat")


async def test_a_messages_entry_is_found_in_every_inbox_that_has_it(storage: Storage, make: Maker) -> None:
    choice = random.Random(7)
    known: dict[int, list[int]] = {}
    appends = []
    for _ in range(40):
        group = [make.append("a", to=choice.sample(USERS, choice.randrange(4))) for _ in range(5)]
        await storage.commit(group)
        appends += group
    for append in appends:
        seqs = dict(zip(append.recipients, append.inbox_seqs, strict=True))
        known[append.message.id] = [seqs.get(user, 0) for user in (*USERS, "u/nobody")]
    for append in appends:
        assert await storage.entries_of(append.message, [*USERS, "u/nobody"]) == known[append.message.id]


async def test_entries_for_one_device_are_not_the_messages_own(storage: Storage, make: Maker) -> None:
    """Retained messages of earlier times stand between later ones, also more of them than are looked at around a place."""
    old = [make.append(f"old/{number}", to=["u/ann"]) for number in range(3)]
    await storage.commit(old)
    key = DeviceKey("u/ann", "phone")
    await storage.commit([OpenSession(key, 1, False, NEVER)])
    many = [old[number % 3].message for number in range(NEAR + 200)]
    await storage.commit([Subscribe(key, 1, [Subscription("old/#", 1)], retained=many)])
    new = [make.append("new", to=["u/ann"]) for _ in range(2)]
    await storage.commit(new)
    for append in (*old, *new):
        assert await storage.entries_of(append.message, ["u/ann"]) == list(append.inbox_seqs)


async def test_an_entry_that_was_removed_is_nowhere(storage: Storage, make: Maker) -> None:
    appends = [make.append("a", to=["u/ann", "u/bob"]) for _ in range(4)]
    await storage.commit(appends)
    await storage.prune_inbox("u/ann", 3)
    found = [await storage.entries_of(append.message, ["u/ann", "u/bob"]) for append in appends]
    assert found == [[0, 1], [0, 2], [3, 3], [4, 4]]


async def test_who_takes_part_comes_in_pages_by_key(storage: Storage, make: Maker) -> None:
    names = ["c/a", "u/a", "u/b", "u/é", "u/\U0001f600"]
    await storage.commit([make.append("a"), Join([(name, "a") for name in reversed(names)]), Join([("u/other", "b")])])
    await storage.commit([MarkRead("u/only-reads", "a", 1)])
    found: list[str] = []
    while page := await storage.participants("a", found[-1] if found else "", 2):
        found += page
    assert found == sorted(names, key=str.encode)
    assert await storage.participants("none") == []


async def test_read_positions_of_several_users(storage: Storage, make: Maker) -> None:
    await storage.commit([*make.appends(3, "a"), MarkRead("u/ann", "a", 2), MarkRead("u/bob", "a", 3)])
    assert await storage.read_positions("a", ["u/bob", "u/eve", "u/ann"]) == [3, 0, 2]


async def test_devices_come_in_pages(storage: Storage, make: Maker) -> None:
    names = ["a", "b", "é", "\U0001f600"]
    for name in reversed(names):
        await storage.commit([OpenSession(DeviceKey("r/x", name), 1, False, NEVER)])
    await storage.commit([OpenSession(DeviceKey("r/xy", "c"), 1, False, NEVER)])
    assert [device.key.client_id for device in await storage.devices_of("r/x", "a", 2)] == ["b", "é"]
    assert [device.key.client_id for device in await storage.devices_of("r/x", "é", 9)] == ["\U0001f600"]
    assert [device.key.client_id for device in await storage.devices_of("r/x")] == names
