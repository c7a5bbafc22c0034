"""Steps say between which times a device was given an entry, and has acknowledged it."""

from __future__ import annotations

import random

from broker.ledger import Between, Step, Steps
from broker.ledger.steps import MOST


def steps(*rows: tuple[int, int, int]) -> Steps:
    made = Steps()
    for row in rows:
        made.add(Step(*row))
    return made


def test_an_entry_is_between_the_steps_around_it() -> None:
    made = steps((0, 0, 100), (2, 4, 200), (5, 5, 300))
    assert made.delivered(1) == Between(100, 200)
    assert made.delivered(4) == Between(100, 200)
    assert made.delivered(5) == Between(200, 300)
    assert made.acknowledged(2) == Between(100, 200)
    assert made.acknowledged(3) == Between(100, 300)
    assert made.acknowledged(6) == Between(300, 0)


def test_before_the_first_step_nothing_is_known() -> None:
    assert steps((3, 3, 100)).delivered(2) == Between(0, 100)
    assert Steps().delivered(1) == Between(0, 0)


def test_an_offset_that_is_set_back_makes_what_follows_it_open_again() -> None:
    made = steps((0, 0, 100), (5, 5, 200), (2, 2, 300))
    assert made.acknowledged(2) == Between(100, 300)
    assert made.acknowledged(4) == Between(300, 0)


def test_many_steps_are_merged_and_stay_true() -> None:
    choice, truth, made, now = random.Random(3), {}, Steps(), 1000
    before, offset = now, 0
    for _ in range(3000):
        now += choice.randrange(1, 2000)
        more = choice.randrange(3)
        for entry in range(offset + 1, offset + more + 1):
            truth[entry] = (before, now)
        offset += more
        made.add(Step(offset, offset, now))
        before = now
    assert len(made.steps) <= MOST
    for entry, (low, high) in truth.items():
        after, until = made.acknowledged(entry)
        assert after <= low < high <= until
        assert until - after <= max(4000, (now - low) // 2), "older entries are told less exactly, in proportion to their age"


def test_what_is_older_than_is_kept_is_forgotten_but_for_where_it_stood() -> None:
    made = steps((1, 1, 100), (2, 2, 200), (3, 3, 300))
    made.forget(250)
    assert made.acknowledged(3) == Between(200, 300)
    assert made.acknowledged(1) == Between(0, 200)


def test_steps_are_packed_and_unpacked() -> None:
    made = steps((0, 3, 1_700_000_000_000), (3, 9, 1_700_000_001_000))
    assert Steps.unpacked(made.packed()).steps == made.steps
    assert len(steps(*((n, n, 1_700_000_000_000 + 1000 * n) for n in range(MOST))).packed()) < 1000
