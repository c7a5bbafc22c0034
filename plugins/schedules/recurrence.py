"""When a message that comes again is due next. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from apscheduler.triggers.interval import IntervalTrigger

from plugins.jobs.schedule import Schedule

_LONGEST_TEXT = 100


class Recurrence:
    """An interval ("6h"), or a cron line of five fields in a ``timezone`` (the machine's where it is empty).

    ``shortest`` interval in seconds. Raises ValueError, which says what would be right.
    """

    def __init__(self, text: str, timezone: str = "", shortest: float = 0.001) -> None:
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"schedule {text[:40]!r}…: has more than {_LONGEST_TEXT} characters")
        zone = _zone(timezone)
        schedule = Schedule.parse(text, shortest, zone)
        if schedule.trigger is None:
            raise ValueError(f"schedule {text!r}: must be an interval or a cron line")
        self.text = schedule.text
        self._trigger = schedule.trigger
        self.interval = self._trigger.interval_length if isinstance(self._trigger, IntervalTrigger) else 0.0
        """In seconds; 0 of a cron line."""
        if zone is not None and self.interval:
            raise ValueError(f"timezone {timezone!r}: only a cron line has one")

    def next(self, last: int, now: int) -> int:
        """The first time (ms) behind ``now``, where ``last`` was one before; 0 where there is none any more. However many were
        missed, they are passed over."""
        if self.interval:
            step = round(self.interval * 1000)
            return last + max(1, (now - last) // step + 1) * step
        after = datetime.fromtimestamp(max(now, last) / 1000, UTC)
        found = self._trigger.get_next_fire_time(after, after)
        return 0 if found is None else round(found.timestamp() * 1000)


def _zone(name: str) -> tzinfo | None:
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError):  # not there, or no name at all
        raise ValueError(f"timezone {name[:60]!r}: must be a name such as Europe/Berlin") from None
