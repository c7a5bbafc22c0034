"""When a job runs: an interval, a cron line, or never by itself. No I/O.

Cron lines are five fields, in the machine's local time. Days of the week are cron's, 0 and 7 being Sunday, which is not how
APScheduler counts them: they are given to it by name. Where a line names a day of the month and of the week, both must hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from broker.config import parse_duration

NEVER = "never"
SHORTEST = 60.0
"""Seconds of the shortest interval."""
_LONGEST = 10 * 365 * 86400.0
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MEANT = 'must be an interval ("6h"), a cron line of five fields ("30 3 * * *"), or never'


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: the text that says it, and what APScheduler goes by; None for never."""

    text: str
    trigger: BaseTrigger | None

    @classmethod
    def parse(cls, value: str | int | bool, shortest: float = SHORTEST, timezone: tzinfo | None = None) -> Schedule:
        """Raises ValueError, which says what would be right. ``off`` and ``no`` in YAML are False, and mean never. ``shortest``
        interval in seconds; the ``timezone`` of a cron line, where it is not the machine's."""
        text = NEVER if value is False else " ".join(str(value).split())
        if text == NEVER:
            return cls(text, None)
        if len(text.split(" ")) == 5:
            return cls(text, _cron(text, timezone))
        try:
            seconds = parse_duration(text)
        except ValueError:
            seconds = None
        if value is True or not isinstance(seconds, int | float):
            raise ValueError(f"schedule {text!r} {_MEANT}")
        if not shortest <= seconds <= _LONGEST:
            raise ValueError(f"schedule {text!r}: an interval is at least {shortest:g} s and at most ten years")
        return cls(text, IntervalTrigger(seconds=seconds))


def _cron(line: str, timezone: tzinfo | None) -> BaseTrigger:
    minute, hour, day, month, weekday = line.split(" ")
    try:
        days = _weekdays(weekday)
        return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=days, timezone=timezone)
    except ValueError as error:
        raise ValueError(f"schedule {line!r} is no cron line: {error}") from None


def _weekdays(field: str) -> str:
    """Cron's field as names: ``1-5`` is mon,tue,wed,thu,fri."""
    days: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = 0, 6
        else:
            low = _weekday(first)
            high = _weekday(last) if dash else 6 if slash else low
        if slash and not (step.isascii() and step.isdigit() and int(step)):
            raise ValueError(f"{part!r} in the day of the week")
        if dash and high == 0 and low > 0:
            high = 7  # fri-sun
        if low > high:
            raise ValueError(f"{part!r} in the day of the week goes backwards")
        days.update(day % 7 for day in range(low, high + 1, int(step or 1)))
    return ",".join(_DAYS[day] for day in sorted(days))


def _weekday(name: str) -> int:
    if name.isascii() and name.isdigit() and int(name) <= 7:
        return int(name)
    if name.lower() in _DAYS:
        return _DAYS.index(name.lower())
    raise ValueError(f"{name!r} is no day of the week")
