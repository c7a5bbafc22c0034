"""What a broker asks of devices that it does not hold in memory."""

from __future__ import annotations

from storage.interface import Due, Storage, Subscribed
from storage.records import (
    NEVER,
    CloseSession,
    DeviceKey,
    OpenSession,
    Operation,
    Progress,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from tests.storage.conftest import LARGE
from tests.storage.samples import Maker, opened, subscribe

PHONE, TABLET, OTHER = DeviceKey("u/ann", "phone"), DeviceKey("u/ann", "tablet"), DeviceKey("u/bob", "phone")
NOW = 1_700_000_000_000


def closed(key: DeviceKey, *, expiry: int = 3600, at: int = 0, will: bytes | None = None, will_at: int = 0) -> CloseSession:
    return CloseSession(key, 1, False, expiry, at, will, will_at)


@LARGE
async def test_every_subscription_is_told(storage: Storage) -> None:
    many = [DeviceKey(f"u/{n}", f"d{n}") for n in range(1203)]
    group: list[Operation] = [op for key in many for op in (opened(key), subscribe(key, f"t/{key.client_id}"))]
    await storage.commit([*group, opened(PHONE), opened(OTHER), subscribe(PHONE, "a/#", "b"), subscribe(PHONE, "$share/g/t")])
    await storage.commit([Unsubscribe(PHONE, 1, ["b"]), opened(TABLET), subscribe(TABLET, "x")])
    await storage.commit([opened(TABLET, 2, clean=True), subscribe(TABLET, "y", epoch=2)])
    found = [one async for page in storage.subscribed() for one in page]
    wanted = {Subscribed(*key, f"t/{key.client_id}") for key in many}
    wanted |= {Subscribed(*PHONE, "a/#"), Subscribed(*PHONE, "$share/g/t"), Subscribed(*TABLET, "y")}
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert await storage.device_count() == len(many) + 3


async def test_deadlines_are_told_in_their_order(storage: Storage) -> None:
    keys = [DeviceKey("u/ann", f"d{n}") for n in range(6)]
    await storage.commit([opened(key) for key in keys])
    assert await storage.due(NOW) == Due([], 0)
    await storage.commit([closed(keys[0], at=NOW + 30), closed(keys[1], at=NOW + 10), closed(keys[2], expiry=NEVER)])
    await storage.commit([closed(keys[3], at=NOW + 500, will=b"w", will_at=NOW + 20), closed(keys[4], at=NOW + 40, will=b"w")])
    assert await storage.due(NOW) == Due([], NOW + 10)
    assert await storage.due(NOW + 25) == Due([keys[1], keys[3]], NOW + 30)
    assert await storage.due(NOW + 40) == Due([keys[1], keys[3], keys[0], keys[4]], NOW + 500)
    assert await storage.due(NOW + 40, limit=3) == Due([keys[1], keys[3], keys[0]], NOW + 500)
    assert await storage.due(NOW + 500) == Due([keys[1], keys[3], keys[0], keys[4]], 0)
    await storage.commit([opened(keys[1], 2), CloseSession(keys[3], 1, True), closed(keys[0], at=NOW + 900)])
    assert await storage.due(NOW + 40) == Due([keys[4]], NOW + 900)


async def test_what_a_start_must_look_at(storage: Storage) -> None:
    names = ["connected", "for ever", "with a will", "in order", "far ahead"]
    keys = {name: DeviceKey("u/ann", name) for name in names}
    await storage.commit([OpenSession(keys[name], 1, False, NEVER if name == "for ever" else 3600) for name in names])
    await storage.commit([subscribe(keys["connected"], "t")])
    await storage.commit([closed(keys["with a will"], expiry=NEVER, will=b"w", will_at=NOW + 1)])
    await storage.commit([closed(keys["in order"], at=NOW + 3_600_000), closed(keys["far ahead"], at=NOW + 3_600_001)])
    found = {device.key.client_id: device async for page in storage.undated(NOW) for device in page}
    assert set(found) == {"connected", "with a will", "far ahead"}
    assert list(found["connected"].subscriptions) == ["t"]
    assert found["with a will"].will == b"w"


async def test_the_devices_of_a_user(storage: Storage) -> None:
    await storage.commit([opened(key) for key in (TABLET, PHONE, OTHER, DeviceKey("u/an", "x"), DeviceKey("u/annx", "x"))])
    await storage.commit([Subscribe(PHONE, 1, [Subscription("a", 1)])])
    found = await storage.devices_of("u/ann")
    assert [device.key for device in found] == [PHONE, TABLET]
    assert list(found[0].subscriptions) == ["a"]
    assert await storage.devices_of("u/nobody") == []


async def test_devices_from_a_key_on(storage: Storage) -> None:
    keys = [
        DeviceKey(user, client) for user in ("c/b", "r/#", "s/g/t", "u/a", "u/ab", "u/ä", "u/😀") for client in ("", "x", "xy")
    ]
    await storage.commit([opened(key) for key in reversed(keys)])
    await storage.commit([subscribe(PHONE, "a"), opened(PHONE), subscribe(PHONE, "a", "b"), CloseSession(keys[4], 1, True)])
    wanted = sorted({*keys, PHONE} - {keys[4]})
    everything = await storage.devices_from(DeviceKey("", ""), 100)
    assert [device.key for device in everything] == wanted
    assert [list(device.subscriptions) for device in everything if device.subscriptions] == [["a", "b"]]
    for place, key in enumerate(wanted):
        assert [device.key for device in await storage.devices_from(key, 4)] == wanted[place : place + 4]
        behind = DeviceKey(key.user, f"{key.client_id}\0")
        assert [device.key for device in await storage.devices_from(behind, 3)] == wanted[place + 1 : place + 4]


async def test_devices_with_a_client_id(storage: Storage) -> None:
    users = ("c/b", "r/#", "u/a", "u/ab", "u/ä", "u/😀")
    await storage.commit([opened(DeviceKey(user, client)) for user in reversed(users) for client in ("x", "xy", "X")])
    await storage.commit([subscribe(DeviceKey("u/a", "x"), "a", "b"), CloseSession(DeviceKey("u/ab", "x"), 1, True)])
    wanted = sorted(user for user in users if user != "u/ab")
    found = await storage.devices_named("x", "", 100)
    assert [device.key for device in found] == [DeviceKey(user, "x") for user in wanted]
    assert [list(device.subscriptions) for device in found if device.subscriptions] == [["a", "b"]]
    for place, user in enumerate(wanted):
        assert [device.key.user for device in await storage.devices_named("x", user, 2)] == wanted[place : place + 2]
        assert [device.key.user for device in await storage.devices_named("x", f"{user}\0", 9)] == wanted[place + 1 :]
    assert await storage.devices_named("y", "", 9) == []


@LARGE
async def test_lowest_offsets(storage: Storage) -> None:
    await storage.commit(Maker().appends(9, to=["u/ann", "u/bob"]))
    many = [DeviceKey(f"u/c{n}", "d") for n in range(1203)]
    await storage.commit([opened(key) for key in (PHONE, TABLET, OTHER, *many)])
    await storage.commit([Progress(PHONE, 1, 4, 9, []), Progress(OTHER, 1, 7, 7, [])])
    assert [await storage.lowest_offset(user) for user in ("u/ann", "u/bob", "u/c7", "u/nobody")] == [4, 7, 0, None]
    found = [pair async for page in storage.lowest_offsets() for pair in page]
    assert dict(found) == {"u/ann": 4, "u/bob": 7, **{key.user: 0 for key in many}}
    assert len(found) == len(many) + 2


async def test_a_shared_subscriptions_group_counts_although_it_has_no_client_id(storage: Storage) -> None:
    """Retention asks for the lowest offset of its inbox."""
    await storage.commit([opened(DeviceKey("s/crew/jobs", ""))])
    assert [device.key.client_id for device in await storage.devices_of("s/crew/jobs")] == [""]
    assert await storage.lowest_offset("s/crew/jobs") == 0
