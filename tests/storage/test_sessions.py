"""Devices: sessions, subscriptions, progress, and the epochs that keep an old connection's hands off."""

from __future__ import annotations

from storage.errors import MessageRefused, Superseded
from storage.interface import Storage
from storage.records import (
    NEVER,
    CloseSession,
    DeviceKey,
    Inflight,
    InflightState,
    Progress,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from tests.storage.conftest import LARGE
from tests.storage.samples import START, Maker, collect, device_fields, fields_of, opened, subscribe, whole_inbox

ANN = DeviceKey("u/ann", "phone")
LAPTOP = DeviceKey("u/ann", "laptop")
INFLIGHT = [
    Inflight(1, 3, InflightState.PUBLISHED_1),
    Inflight(65535, 1 << 40, InflightState.RELEASED, "s/group/a/#"),
    Inflight(9, 4, InflightState.PUBLISHED_2),
]


async def read(storage: Storage, key: DeviceKey = ANN) -> dict[str, object]:
    fields = device_fields(await storage.device(key))
    assert fields is not None
    return fields


async def test_a_new_device_starts_at_the_head(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(3, to=["u/ann"]))
    session = opened(ANN, 5, expiry=77, will=b"will", at=START)
    await storage.commit([make.append(to=["u/ann"]), session, make.append(to=["u/ann"])])
    assert (session.created, session.head, session.offset) == (True, 4, 4)
    assert await read(storage) == {
        "key": ANN,
        "epoch": 5,
        "expiry": 77,
        "expires_at": 0,
        "created_at": START,
        "offset": 4,
        "cursor": 4,
        "inflight": [],
        "subscriptions": {},
        "received": set(),
        "will": b"will",
        "will_at": 0,
    }


async def test_a_new_device_starts_where_it_is_told(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(10, to=["u/ann"]))
    told = {"latest": 10, "earliest": 0, "last:3": 7, "last:0": 10, "last:99": 0}
    told |= {f"since:{START + 4}": 3, f"since:{START}": 0, f"since:{START + 99}": 10}
    for start, offset in told.items():
        key = DeviceKey("u/ann", start)
        session = opened(key, start=start)
        await storage.commit([session])
        assert (session.created, session.head, session.offset) == (True, 10, offset), start
        fields = await read(storage, key)
        assert (fields["offset"], fields["cursor"]) == (offset, offset), start


async def test_a_start_is_never_before_the_first_kept_entry(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(10, to=["u/ann"]))
    await storage.prune_inbox("u/ann", 5)
    for start, offset in {"latest": 10, "earliest": 4, "last:3": 7, "last:9": 4, f"since:{START}": 4}.items():
        session = opened(DeviceKey("u/ann", start), start=start)
        await storage.commit([session])
        assert session.offset == offset, start


async def test_a_start_sees_the_appends_before_it_in_the_group(storage: Storage, make: Maker) -> None:
    for user, start in (("u/ann", "earliest"), ("u/bob", "last:2"), ("u/eve", f"since:{START + 9}")):
        session = opened(DeviceKey(user, "phone"), start=start)
        await storage.commit([*make.appends(2, to=[user]), session, *make.appends(2, to=[user])])
        assert (session.head, session.offset) == (2, 0), start


async def test_a_start_in_an_empty_inbox(storage: Storage) -> None:
    for start in ("earliest", "last:2", f"since:{START}", "latest"):
        session = opened(DeviceKey("u/ann", start), start=start)
        await storage.commit([session])
        assert (session.created, session.head, session.offset) == (True, 0, 0), start


async def test_an_unknown_start_is_refused_alone(storage: Storage, make: Maker) -> None:
    session = opened(ANN, start="yesterday")
    await storage.commit([make.append(), session, make.append()])
    assert isinstance(session.error, MessageRefused)
    assert await storage.device(ANN) is None
    assert await storage.conversation_bounds("a/b") == (1, 2)


async def test_a_session_goes_on(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN, 1, at=START), subscribe(ANN, "a/#"), *make.appends(5, to=["u/ann"])])
    await storage.commit([Progress(ANN, 1, 2, 4, INFLIGHT)])
    await storage.commit([CloseSession(ANN, 1, False, expiry=60, expires_at=START + 60, will=b"w", will_at=START + 5)])
    before = await read(storage)
    assert (before["expires_at"], before["will"], before["will_at"], before["expiry"]) == (START + 60, b"w", START + 5, 60)
    session = opened(ANN, 2, expiry=NEVER, start="earliest", at=START + 9)
    await storage.commit([session])
    assert (session.created, session.head, session.offset) == (False, 5, 2)
    expected = before | {"epoch": 2, "expiry": NEVER, "expires_at": 0, "will": None, "will_at": 0}
    assert await read(storage) == expected


async def test_a_clean_start_removes_what_was_left(storage: Storage, make: Maker) -> None:
    await storage.commit(
        [
            opened(ANN, 1),
            subscribe(ANN, "a/#", "b"),
            make.append(to=["u/ann"], received=(ANN, 3)),
            opened(LAPTOP, 1),
            subscribe(LAPTOP, "a/#"),
        ]
    )
    await storage.commit([Progress(ANN, 1, 0, 1, INFLIGHT)])
    session = opened(ANN, 2, clean=True, at=START + 9)
    await storage.commit([make.append(to=["u/ann"], received=(ANN, 4)), session])
    assert (session.created, session.head, session.offset) == (True, 2, 2)
    fields = await read(storage)
    assert (fields["subscriptions"], fields["received"], fields["inflight"], fields["created_at"]) == ({}, set(), [], START + 9)
    assert (await read(storage, LAPTOP))["subscriptions"] == {"a/#": ("a/#", 1, 0, 1)}


async def test_a_deleted_session_is_gone(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), subscribe(ANN, "a"), make.append(received=(ANN, 1)), opened(LAPTOP)])
    await storage.commit([CloseSession(ANN, 1, True)])
    assert await storage.device(ANN) is None
    assert [d.key for d in await collect(storage.devices())] == [LAPTOP]
    session = opened(ANN, 2)
    await storage.commit([session])
    assert session.created
    fields = await read(storage)
    assert (fields["subscriptions"], fields["received"]) == ({}, set())


async def test_open_subscribe_and_close_in_one_group(storage: Storage, make: Maker) -> None:
    again = opened(ANN, 2)
    await storage.commit(
        [
            opened(ANN, 1),
            subscribe(ANN, "a"),
            make.append(received=(ANN, 1)),
            CloseSession(ANN, 1, True),
            again,
            subscribe(ANN, "b", epoch=2),
        ]
    )
    assert again.created
    fields = await read(storage)
    assert fields["epoch"] == 2
    assert fields["received"] == set()
    assert fields["subscriptions"] == {"b": ("b", 1, 0, 0)}


async def test_operations_of_an_older_epoch_change_nothing(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN, 7), subscribe(ANN, "a", epoch=7), *make.appends(3, to=["u/ann"])])
    await storage.commit([Progress(ANN, 7, 1, 2, INFLIGHT[:1])])
    before = await read(storage)
    stale = subscribe(ANN, "b", epoch=6, retained=[make.message("b")])
    await storage.commit(
        [
            Progress(ANN, 6, 3, 3, []),
            CloseSession(ANN, 6, True),
            CloseSession(ANN, 6, False, expires_at=5, will=b"x"),
            Unsubscribe(ANN, 6, ["a"]),
            stale,
            opened(ANN, 6, clean=True),
        ]
    )
    assert await read(storage) == before
    assert await storage.inbox_head("u/ann") == 3
    assert list(stale.retained_seqs) == []
    assert isinstance(stale.error, Superseded) or all(s.since >= 0 for s in stale.subscriptions)


async def test_an_epoch_counts_from_its_place_in_the_group(storage: Storage) -> None:
    await storage.commit([opened(ANN, 1)])
    await storage.commit(
        [Progress(ANN, 1, 0, 0, INFLIGHT[:1]), opened(ANN, 2), Progress(ANN, 1, 0, 0, []), CloseSession(ANN, 1, True)]
    )
    fields = await read(storage)
    assert (fields["epoch"], fields["inflight"]) == (2, INFLIGHT[:1])


async def test_operations_on_a_device_that_is_not_kept_change_nothing(storage: Storage, make: Maker) -> None:
    await storage.commit(make.appends(2, to=["u/ann"]))
    subscribing = subscribe(ANN, "a", retained=[make.message("a")])
    await storage.commit(
        [
            subscribing,
            Unsubscribe(ANN, 1, ["a"]),
            Progress(ANN, 1, 1, 1, []),
            CloseSession(ANN, 1, False),
            CloseSession(ANN, 1, True),
        ]
    )
    assert await storage.device(ANN) is None
    assert subscribing.error is None
    assert subscribing.subscriptions[0].since == 2
    assert await storage.inbox_head("u/ann") == 2


async def test_progress_of_many_devices_in_one_group(storage: Storage, make: Maker) -> None:
    keys = [DeviceKey("u/ann", f"d{n}") for n in range(300)]
    await storage.commit([*make.appends(5, to=["u/ann"]), *(opened(key) for key in keys)])
    await storage.commit([Progress(key, 1, n % 5, 5, INFLIGHT[: n % 4]) for n, key in enumerate(keys)])
    await storage.commit([Progress(keys[0], 1, 1, 2, []), Progress(keys[0], 1, 3, 4, INFLIGHT)])
    found = {device.key: device for device in await collect(storage.devices())}
    assert len(found) == 300
    assert (found[keys[0]].offset, found[keys[0]].cursor, found[keys[0]].inflight) == (3, 4, INFLIGHT)
    for n, key in list(enumerate(keys))[1:]:
        assert (found[key].offset, found[key].cursor, found[key].inflight) == (n % 5, 5, INFLIGHT[: n % 4])


# --- subscriptions -------------------------------------------------------------------------------------------------


async def test_a_new_filter_is_due_what_comes_after_its_place_in_the_group(storage: Storage, make: Maker) -> None:
    first, second = subscribe(ANN, "a/#", "b"), subscribe(ANN, "c")
    await storage.commit(
        [opened(ANN), *make.appends(2, to=["u/ann"]), first, make.append(to=["u/ann"]), second, make.append(to=["u/ann"])]
    )
    assert [s.since for s in first.subscriptions] == [2, 2]
    assert second.subscriptions[0].since == 3
    assert (await read(storage))["subscriptions"] == {"a/#": ("a/#", 1, 0, 2), "b": ("b", 1, 0, 2), "c": ("c", 1, 0, 3)}


async def test_subscribing_again_keeps_since_and_takes_the_new_options(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), subscribe(ANN, "a/#"), *make.appends(4, to=["u/ann"])])
    again = Subscribe(ANN, 1, [Subscription("a/#", 0x2E, 268435455, -1), Subscription("new", 2, 5, -1)])
    await storage.commit([again])
    assert [s.since for s in again.subscriptions] == [0, 4]
    assert (await read(storage))["subscriptions"] == {"a/#": ("a/#", 0x2E, 268435455, 0), "new": ("new", 2, 5, 4)}


async def test_a_filter_twice_in_one_group_keeps_its_first_since(storage: Storage, make: Maker) -> None:
    second = subscribe(ANN, "a", options=2)
    await storage.commit([opened(ANN), subscribe(ANN, "a"), make.append(to=["u/ann"]), second])
    assert second.subscriptions[0].since == 0
    assert (await read(storage))["subscriptions"] == {"a": ("a", 2, 0, 0)}


async def test_since_can_be_given_for_a_new_filter_only(storage: Storage, make: Maker) -> None:
    await storage.commit([opened(ANN), *make.appends(5, to=["u/ann"])])
    await storage.commit([subscribe(ANN, "a", since=2), subscribe(ANN, "b", since=0)])
    await storage.commit([subscribe(ANN, "a", since=4)])
    assert (await read(storage))["subscriptions"] == {"a": ("a", 1, 0, 2), "b": ("b", 1, 0, 0)}


async def test_unsubscribe_then_subscribe_is_a_new_subscription(storage: Storage, make: Maker) -> None:
    again = subscribe(ANN, "a")
    await storage.commit(
        [opened(ANN), subscribe(ANN, "a", "b"), *make.appends(2, to=["u/ann"]), Unsubscribe(ANN, 1, ["a", "never had"]), again]
    )
    assert again.subscriptions[0].since == 2
    assert (await read(storage))["subscriptions"] == {"a": ("a", 1, 0, 2), "b": ("b", 1, 0, 0)}


@LARGE
async def test_many_subscriptions_of_many_devices(storage: Storage) -> None:
    keys = [DeviceKey(f"u/{n % 7}", f"d{n}") for n in range(40)]
    await storage.commit([opened(key) for key in keys])
    for n, key in enumerate(keys):
        await storage.commit([subscribe(key, *(f"f/{n}/{i}" for i in range(n)))])
    found = {device.key: set(device.subscriptions) for device in await collect(storage.devices())}
    assert found == {key: {f"f/{n}/{i}" for i in range(n)} for n, key in enumerate(keys)}


# --- retained messages to a new subscription -----------------------------------------------------------------------


async def test_retained_messages_enter_the_inbox_for_the_subscribing_device_alone(storage: Storage, make: Maker) -> None:
    kept = [make.append(f"r/{n}", retain=True) for n in range(3)]
    await storage.commit([opened(ANN), *kept, make.append(to=["u/ann"])])
    subscribing = subscribe(ANN, "r/#", retained=[a.message for a in kept])
    after = make.append(to=["u/ann"])
    await storage.commit([make.append(to=["u/ann"]), subscribing, after])
    assert subscribing.subscriptions[0].since == 2
    assert list(subscribing.retained_seqs) == [3, 4, 5]
    assert list(after.inbox_seqs) == [6]
    entries = await whole_inbox(storage, "u/ann")
    assert [(seq, target) for seq, _, target in entries] == [
        (1, ""),
        (2, ""),
        (3, "phone"),
        (4, "phone"),
        (5, "phone"),
        (6, ""),
    ]
    assert [message for _, message, _ in entries[2:5]] == [fields_of(a.message) for a in kept]


async def test_an_entry_finds_its_retained_message_after_the_conversation_was_pruned(storage: Storage, make: Maker) -> None:
    kept = make.append("r", to=["u/ann"], retain=True)
    plain = make.append("p", to=["u/ann"])
    await storage.commit([opened(ANN), kept, plain])
    await storage.commit([subscribe(ANN, "r", retained=[kept.message])])
    await storage.prune_conversation("r", 100)
    await storage.prune_conversation("p", 100)
    expected = fields_of(kept.message)
    assert await whole_inbox(storage, "u/ann") == [(1, expected, ""), (2, None, ""), (3, expected, "phone")]


async def test_an_entry_of_an_unstored_retained_message(storage: Storage, make: Maker) -> None:
    kept = make.append("r", retain=True, store=False)
    await storage.commit([opened(ANN), kept])
    await storage.commit([subscribe(ANN, "r", retained=[kept.message])])
    assert await whole_inbox(storage, "u/ann") == [(1, fields_of(kept.message), "phone")]
    await storage.commit([make.append("r", retain=True, store=False)])
    assert await whole_inbox(storage, "u/ann") == [(1, None, "phone")]


@LARGE
async def test_devices_of_many_pages_come_each_with_its_own_subscriptions(storage: Storage) -> None:
    """Also those whose names begin with another one's, and those of one user beside many others'."""
    names = [f"{n:03}" + end for n in range(150) for end in ("", "\x01", "a")]
    keys = [DeviceKey(user, name) for user in ("u/ann", "u/ann\x01", "u/annb") for name in names]
    filters = {key: {f"{key.client_id}/{n}" for n in range(n % 3)} for n, key in enumerate(keys)}
    await storage.commit([opened(key) for key in keys])
    await storage.commit([subscribe(key, *some) for key, some in filters.items() if some])
    gone = keys[::100]
    await storage.commit([CloseSession(key, 1, delete=True) for key in gone])
    found = {device.key: set(device.subscriptions) for device in await collect(storage.devices())}
    assert found == {key: filters[key] for key in keys if key not in gone}
