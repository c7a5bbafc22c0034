"""When the indexer rests."""

from __future__ import annotations

import pytest

from plugins.search.pace import Pace


@pytest.mark.parametrize(
    ("share", "stored", "rest"),
    [
        (1.0, 0, 0.0),  # a backlog, and nothing new: all the time there is
        (1.0, 1990, 0.0),  # stored as fast as a processor indexes it
        (1.0, 2500, 0.025),  # a quarter more: a fifth of the time is publishing's
        (1.0, 3000, 0.05),
        (1.0, 4000, 0.1),
        (1.0, 100_000, 0.1),  # hopeless, and half the time all the same
        (0.25, 0, 0.3),
        (0.25, 100_000, 0.3),  # rests longer than that anyway
    ],
)
def test_it_rests_for_its_share_and_where_it_is_outrun(share: float, stored: int, rest: float) -> None:
    """A page of 2,000 messages in a tenth of a second, again and again."""
    pace, now = Pace(share), 100.0
    pace.rest(now, 0.1, 0.1, 2000)
    for _ in range(3):
        now += 0.1
        pace.stored(stored // 2)
        pace.stored(stored - stored // 2)
        assert pace.rest(now, 0.1, 0.1, 2000) == pytest.approx(rest)


def test_time_spent_resting_counts_for_what_is_stored_in_it() -> None:
    pace = Pace(1.0)
    pace.rest(100.0, 0.1, 0.1, 2000)
    pace.stored(3500)
    assert pace.rest(100.2, 0.1, 0.1, 2000) == 0.0, "1,750 in a tenth of a second"


def test_time_spent_waiting_for_a_processor_is_no_work() -> None:
    """Others want the processors: resting, too, would leave the index behind that a part of one of them keeps near."""
    pace = Pace(1.0)
    pace.rest(100.0, 0.4, 0.1, 2000)
    pace.stored(7000)
    assert pace.rest(100.4, 0.4, 0.1, 2000) == 0.0
    pace.stored(9000)
    assert pace.rest(100.8, 0.4, 0.1, 2000) == pytest.approx(0.05)
