"""Schedules: intervals, cron lines as cron means them, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from plugins.jobs.schedule import Schedule

MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def fires(line: str, count: int = 3) -> list[datetime]:
    schedule = Schedule.parse(line)
    assert schedule.trigger is not None
    schedule.trigger.timezone = ZoneInfo("UTC")
    found: list[datetime] = []
    after, last = MONDAY, None
    for _ in range(count):
        last = schedule.trigger.get_next_fire_time(last, after)
        found.append(last)
        after = last + timedelta(seconds=1)
    return found


@pytest.mark.parametrize("text", ["never", False, " never "])
def test_never(text: str | bool) -> None:
    assert Schedule.parse(text) == Schedule("never", None)


@pytest.mark.parametrize(("value", "seconds"), [("6h", 21600), ("90 s", 90), (3600, 3600), ("1d", 86400)])
def test_intervals(value: str | int, seconds: int) -> None:
    trigger = Schedule.parse(value).trigger
    assert trigger is not None
    assert trigger.interval == timedelta(seconds=seconds)


def test_cron_lines() -> None:
    assert fires("30 3 * * *", 2) == [datetime(2026, 11, 24, 3, 30, tzinfo=UTC), datetime(2026, 11, 25, 3, 30, tzinfo=UTC)]
    assert fires("*/20 * * * *")[1] == datetime(2026, 11, 23, 12, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", [29]),
        ("7", [29]),
        ("sun", [29]),
        ("1-5", [24, 25, 26]),
        ("6,0", [28, 29]),
        ("fri-sun", [27, 28, 29]),
        ("*/3", [25, 28, 29]),
        ("2/2", [24, 26, 28]),
        ("MON", [30]),
    ],
)
def test_the_days_of_the_week_are_crons(field: str, days: list[int]) -> None:
    """Cron's Sunday is 0, APScheduler's is 6."""
    assert [when.day for when in fires(f"0 6 * * {field}", len(days))] == days


@pytest.mark.parametrize(
    "value",
    [
        "hourly",
        "",
        "59s",
        "20 years",
        "0 25 * * *",
        "* * * *",
        "* * * * * *",
        "0 0 * * 8",
        "0 0 * * fri-mon",
        "0 0 * * 1/0",
        True,
    ],
)
def test_what_is_refused_says_what_would_be_right(value: str | bool) -> None:
    with pytest.raises(ValueError, match=r"interval|cron line|day of the week"):
        Schedule.parse(value)
