"""A shared subscription group under any interleaving: its work is neither lost nor, at QoS 2, done twice (laws 1, 3 and 4)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.scripted import Device, Sender, World
from tests.support.seeds import examples

GROUP = "$share/crew/jobs/#"
Action = tuple[str, int, int]

_one = st.integers(0, 2)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("publish"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("subscribe"), _one, st.integers(1, 2)),
        st.tuples(st.just("answer"), _one, st.integers(0, 5)),
        st.tuples(st.just("answer"), _one, st.integers(0, 5)),
        st.tuples(st.just("lose"), _one, st.just(0)),
        st.tuples(st.just("connect"), _one, st.just(0)),
        st.tuples(st.just("freeze"), _one, st.just(0)),
        st.tuples(st.just("thaw"), _one, st.just(0)),
        st.tuples(st.just("let"), st.integers(0, 3), st.integers(1, 2)),
        st.tuples(st.just("turn"), st.integers(1, 8), st.just(0)),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
    ),
    min_size=5,
    max_size=60,
)


def act(world: World, sender: Sender, members: list[Device], script: list[Action]) -> Iterator[int]:
    """Do one action after the other; yields how many turns of the loop follow each, or -1 to shut the gates."""
    count = 0
    for kind, one, two in script:
        if kind == "publish":
            count += 1
            sender.publish("jobs/1", b"%d" % count, one)
        elif kind == "subscribe":
            members[one].subscribe(GROUP, two)
        elif kind == "answer":
            members[one].answer(two)
        elif kind == "let":
            for _ in range(two):
                world.storage.gates[one].let()
        elif kind == "settle":
            for gate in world.storage.gates:
                for _ in range(20):
                    gate.let()
            for member in members:
                member.connect()
            yield 30
            yield -1
        elif kind != "turn":
            getattr(members[one], kind)()
        yield one if kind == "turn" else 0


async def play(script: list[Action], window: int) -> None:
    world = World(mqtt={"inflight_window": window}, limits={"page_entries": 2, "recent_entries": 2})
    await world.start()
    sender = Sender(world, "sender")
    members = [Device(world, f"m{n}", durable=True, member=True) for n in range(3)]
    sender.connect()
    try:
        begin: list[Action] = [("settle", 0, 0), *(("subscribe", n, 2 - n % 2) for n in range(3)), ("settle", 0, 0)]
        for turns in act(world, sender, members, [*begin, *script]):
            await world.turn(turns)
            if turns < 0:
                for gate in world.storage.gates:
                    await gate.shut()
        await world.quiesce(members)
        assert world.problems == []
        check(world, members, losses=sum(action[0] == "lose" for action in script), window=window)
    finally:
        for gate in world.storage.gates:
            gate.open()
        await world.stop()


def check(world: World, members: list[Device], *, losses: int, window: int) -> None:
    """Every message went to a member and was done; to several only if one was lost with it in flight."""
    published = [payload for kind, _, payload in world.events if kind == "message"]
    got = Counter(payload for member in members for payload in member.first)
    assert set(got) == set(published), "not given to anybody"
    assert sum(got.values()) - len(got) <= losses * window, "given to more members than have been lost"
    done = Counter(payload for member in members for payload in member.done)
    assert set(done) == set(published), "not acknowledged by anybody"
    if not losses:
        assert set(got.values()) <= {1}
        for member in members:
            assert [int(payload) for payload in member.first] == sorted(map(int, member.first)), "out of order"
    (group,) = world.server.shared_groups._groups.values()
    machine = group.machine
    assert (machine.pending, machine.received, machine.cursor) == ({}, set(), len(published))
    assert group.progress().offset == len(published)


@pytest.mark.inside
@given(actions, st.sampled_from([1, 2, 100]))
@settings(max_examples=examples(200), deadline=None)
def test_a_groups_work_is_given_out_and_done(script: list[Action], window: int) -> None:
    asyncio.run(play(script, window))
