"""Delivery under any interleaving: each device gets every due message once and in order (laws 1, 3 and 4).

Scripts decide when commits are applied and answered, when pages are read and handed over, who acknowledges what, and who
freezes or goes. Nothing sleeps and nothing is a socket, so that a failing script fails again.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.scripted import Device, Sender, World
from tests.support.seeds import examples

pytestmark = pytest.mark.inside

TOPICS = ["a/1", "a/2", "b"]
FILTERS = ["a/+", "a/1", "b", "#"]
Action = tuple[str, int, int]

_one = st.integers(0, 3)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("subscribe"), _one, st.integers(0, 11)),
        st.tuples(st.just("answer"), _one, st.integers(0, 5)),
        st.tuples(st.just("lose"), _one, st.just(0)),
        st.tuples(st.just("connect"), _one, st.just(0)),
        st.tuples(st.just("freeze"), _one, st.just(0)),
        st.tuples(st.just("thaw"), _one, st.just(0)),
        st.tuples(st.just("let"), _one, st.integers(1, 2)),
        st.tuples(st.just("let"), _one, st.integers(1, 2)),
        st.tuples(st.just("turn"), st.integers(1, 8), st.just(0)),
        st.tuples(st.just("turn"), st.integers(1, 8), st.just(0)),
    ),
    min_size=5,
    max_size=80,
)

SETUP: list[Action] = [("settle", 0, 0)]


async def play(script: list[Action], *, window: int, page: int, recent: int) -> int:
    """Play a script, let everybody finish, and check; how many messages that were due were delivered."""
    few = recent * 3
    limits = {"page_entries": page, "recent_entries": recent, "recent_bytes": few}
    world = World(mqtt={"inflight_window": window}, limits=limits)
    await world.start()
    sender = Sender(world, "sender")
    devices = [Device(world, f"d{n}", durable=n < 3) for n in range(4)]
    sender.connect()
    try:
        count = 0
        for kind, one, two in script:
            if kind == "publish":
                count += 1
                sender.publish(TOPICS[one], b"%d" % count, two)
            elif kind == "subscribe":
                devices[one].subscribe(FILTERS[two % 4], two // 4)
            elif kind == "answer":
                devices[one].answer(two)
            elif kind in ("lose", "connect", "freeze", "thaw"):
                getattr(devices[one], kind)()
            elif kind == "let":
                for _ in range(two):
                    world.storage.gates[one].let()
            elif kind == "settle":
                for gate in world.storage.gates:
                    for _ in range(20):
                        gate.let()
                for device in devices:
                    device.connect()
                await world.turn(30)
                for gate in world.storage.gates:
                    await gate.shut()
            else:
                await world.turn(one)
            assert world.server.delivery._waiting_bytes <= few
        await world.quiesce(devices)
        assert world.problems == []
        for device in devices:
            assert device.first == world.due(device), device.client_id
        for device in devices[:3]:
            session = world.server.sessions.named(device.client_id)[0]
            assert len(session.window) == 0
            assert session.offset == session.cursor
        delivery = world.server.delivery
        assert (delivery._waiting_bytes, delivery._waiting) == (0, {})
        return sum(len(device.first) for device in devices)
    finally:
        for gate in world.storage.gates:
            gate.open()
        await world.stop()


@given(actions, st.sampled_from([1, 2, 5, 100]), st.sampled_from([1, 2, 256]), st.sampled_from([1, 3, 512]))
@settings(max_examples=examples(150), deadline=None)
@example([("settle", 0, 0), ("subscribe", 0, 3), ("publish", 0, 1), ("let", 0, 2), ("turn", 8, 0)], 1, 1, 1)
def test_every_due_message_once_and_in_order(script: list[Action], window: int, page: int, recent: int) -> None:
    asyncio.run(play(script, window=window, page=page, recent=recent))


def test_an_entry_of_the_group_under_way_waits_for_the_subscription_beside_it() -> None:
    """A page that is read while a group is durable and not done may have its entries: their subscription has no place yet."""
    behind: list[Action] = [("freeze", 0, 0), *[("publish", 0, 1)] * 3, ("settle", 0, 0)]
    busy: list[Action] = [("publish", 1, 1), ("turn", 3, 0)]
    together: list[Action] = [("subscribe", 0, 6), ("publish", 2, 1), ("let", 0, 1), ("let", 1, 1), ("turn", 5, 0)]
    durable: list[Action] = [("let", 0, 1), ("turn", 5, 0)]
    read: list[Action] = [("thaw", 0, 0), ("turn", 3, 0), ("let", 2, 1), ("let", 3, 1), ("turn", 5, 0)]
    begin: list[Action] = [("settle", 0, 0), ("subscribe", 0, 5), ("settle", 0, 0)]
    assert asyncio.run(play([*begin, *behind, *busy, *together, *durable, *read], window=100, page=256, recent=1)) == 4


@pytest.mark.parametrize("levels", [(0, 2), (2, 0), (0, 2, 0, 1, 2, 0)])
def test_qos_0_beside_qos_2_is_not_done_before_it_is_written(levels: tuple[int, ...]) -> None:
    """A QoS 2 message waits for its state to be durable. What was to follow it is not lost with the connection."""
    begin: list[Action] = [("settle", 0, 0), ("subscribe", 0, 11), ("settle", 0, 0), ("freeze", 0, 0)]
    missed: list[Action] = [("publish", 0, qos) for qos in levels]
    lost: list[Action] = [("settle", 0, 0), ("thaw", 0, 0), ("turn", 3, 0), ("lose", 0, 0)]
    assert asyncio.run(play([*begin, *missed, *lost], window=100, page=256, recent=512)) == len(levels)


def test_what_waits_in_memory_for_all_devices_together_is_bounded() -> None:
    """Each of four has as many entries as one may have; `play` looks at their bytes."""
    begin: list[Action] = [("settle", 0, 0), *[("subscribe", device, 7) for device in range(4)], ("settle", 0, 0)]
    kept_up: list[Action] = [("publish", 0, 1)] * 9 + [("settle", 0, 0)]
    behind: list[Action] = [("freeze", device, 0) for device in range(4)] + [("publish", 0, 1)] * 3 + [("settle", 0, 0)]
    assert asyncio.run(play([*begin, *kept_up, *behind], window=100, page=256, recent=3)) == 4 * 12


@given(actions, st.sampled_from([1, 3]), st.sampled_from([1, 2]))
@settings(max_examples=examples(100), deadline=None)
def test_from_a_broker_that_is_in_full_swing(script: list[Action], window: int, page: int) -> None:
    """Everybody is connected and subscribed, and behind by more than memory keeps."""
    begin: list[Action] = [("settle", 0, 0)]
    begin += [("subscribe", device, 3 + 4 * (device % 3)) for device in range(4)]
    begin += [("settle", 0, 0)] + [("publish", n % 3, n % 3) for n in range(12)] + [("settle", 0, 0)]
    assert asyncio.run(play([*begin, *script], window=window, page=page, recent=2)) >= 3 * 12
