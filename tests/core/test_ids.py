"""Message ids: they rise strictly whatever the clock does, carry their time, and go on above what is stored."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ids import EPOCH, Ids

clocks = st.lists(st.integers(EPOCH - 1000, EPOCH + 10_000), min_size=1, max_size=60)


def made(readings: list[int], node: int = 0) -> Ids:
    """Ids whose clock reads these milliseconds, one after the other."""
    left = iter(readings)
    last = readings[-1]
    return Ids(node, lambda: next(left, last) / 1000)


@given(clocks, st.integers(0, 1023))
def test_ids_rise_and_fit_63_bits(readings: list[int], node: int) -> None:
    ids = made(readings, node)
    given_ids = [ids.take() for _ in range(len(readings) + 10)]
    numbers = [number for number, _ in given_ids]
    assert all(a < b for a, b in pairwise(numbers))
    assert all(0 < number < 1 << 63 for number in numbers)
    assert all(number >> 12 & 1023 == node for number in numbers)
    assert ids.last == numbers[-1]


@given(clocks)
def test_time_never_goes_backwards(readings: list[int]) -> None:
    ids = made(readings)
    times = [ids.take()[1] for _ in range(len(readings) + 10)]
    assert times == sorted(times)
    assert ids.now() >= times[-1]


def test_more_ids_in_a_millisecond_than_there_are_counts() -> None:
    ids = made([EPOCH + 5])
    numbers = [ids.take()[0] for _ in range(10_000)]
    assert len(set(numbers)) == 10_000
    assert numbers == sorted(numbers)


@given(clocks, st.integers(0, (1 << 62) - 1))
def test_ids_go_on_above_a_stored_one(readings: list[int], last: int) -> None:
    ids = made(readings)
    ids.start_after(last)
    number, _ = ids.take()
    assert number > last


def test_a_node_number_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="1024"):
        Ids(1024)
