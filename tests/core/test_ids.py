"""Message ids: they rise strictly whatever the clock does, and go on above what is stored."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.clock import ServerTime
from broker.ids import EPOCH, Ids, time_of
from storage.cluster import number_of

clocks = st.lists(st.integers(EPOCH - 1000, EPOCH + 10_000), min_size=1, max_size=60)


def made(readings: list[int], node: int = 0) -> Ids:
    """Ids whose wall clock reads these milliseconds, one after the other, while no time passes."""
    left = iter(readings)
    last = readings[-1]
    return Ids(node, ServerTime(lambda: next(left, last) / 1000, lambda: 0.0))


@given(clocks, st.integers(0, 1023))
def test_ids_rise_and_fit_63_bits(readings: list[int], node: int) -> None:
    ids = made(readings, node)
    numbers = [ids.take()[0] for _ in range(len(readings) + 10)]
    assert all(a < b for a, b in pairwise(numbers))
    assert all(0 < number < 1 << 63 for number in numbers)
    assert all(number >> 12 & 1023 == node for number in numbers)
    assert ids.last == numbers[-1]


@given(clocks)
def test_a_message_is_stamped_with_the_wall_clock(readings: list[int]) -> None:
    """One message in a wrong year does not put those after it into that year."""
    ids = made(readings)
    assert [ids.take()[1] for _ in readings[1:]] == [int(reading / 1000 * 1000) for reading in readings[1:]]


def test_a_group_is_of_the_moment_when_it_began() -> None:
    """The clocks are read once for all its messages, however many; its ids rise like any."""
    ids = made([EPOCH, EPOCH + 5, EPOCH + 7])  # the first reading is the anchor of the time
    ids.read_clocks()
    one = [ids.take_of_group() for _ in range(10)]
    ids.read_clocks()
    other = [ids.take_of_group() for _ in range(10)]
    assert {time for _, time in one} == {EPOCH + 5}
    assert {time for _, time in other} == {EPOCH + 7}
    numbers = [number for number, _ in one + other]
    assert numbers == sorted(set(numbers))


def test_more_ids_in_a_millisecond_than_there_are_counts() -> None:
    ids = made([EPOCH + 5])
    numbers = [ids.take()[0] for _ in range(10_000)]
    assert len(set(numbers)) == 10_000
    assert numbers == sorted(numbers)
    assert EPOCH + 5 <= time_of(numbers[-1]) <= EPOCH + 10


@given(clocks, st.integers(0, (1 << 62) - 1))
def test_ids_go_on_above_a_stored_one(readings: list[int], last: int) -> None:
    ids = made(readings)
    ids.start_after(last)
    number, _ = ids.take()
    assert number > last


def test_a_node_number_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="1024"):
        Ids(1024)


def test_storage_finds_the_number_of_a_node_in_its_ids() -> None:
    for number in (0, 1, 1023):
        ids = Ids(number)
        assert {number_of(ids.take()[0]) for _ in range(3)} == {number}
