"""When a message is to be published, as it is asked for and as it is reckoned. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from broker.hooks import Refusal
from broker.packets import ReasonCode
from plugins.schedules.config import SchedulesConfig
from plugins.schedules.entry import Clock
from plugins.schedules.recurrence import Recurrence


@dataclass(frozen=True, slots=True)
class When:
    """One of the three: a ``delay`` in seconds, ``at`` a time (ms), or by a ``schedule``, in a ``timezone``."""

    delay: float | None = None
    at: int | None = None
    schedule: str | None = None
    timezone: str = ""


def due_at(wanted: When, steady: int, wall: int, config: SchedulesConfig) -> tuple[Clock, int, Recurrence | None]:
    """By which clock a message is due, when (ms), and how it comes again; given what both clocks show. Raises `Refusal`."""
    given = [name for name in ("delay", "at", "schedule") if getattr(wanted, name) is not None]
    if len(given) != 1:
        raise _wrong(f"{' and '.join(given) or 'none'} given: must be one of delay, at and schedule")
    if wanted.timezone and wanted.schedule is None:
        raise _wrong(f"timezone {wanted.timezone[:60]!r}: only a schedule has one")
    if wanted.delay is not None:
        return "steady", steady + _allowed(round(wanted.delay * 1000), "delay", config), None
    if wanted.at is not None:
        return "wall", wall + _allowed(wanted.at - wall, f"at {wanted.at} (ms since 1970)", config), None
    assert wanted.schedule is not None
    try:
        again = Recurrence(wanted.schedule, wanted.timezone, config.shortest)
    except ValueError as error:
        raise _wrong(str(error)) from None
    clock: Clock = "steady" if again.interval else "wall"
    now = steady if again.interval else wall
    due = again.next(now, now)
    if not due:
        raise _wrong(f"schedule {again.text!r}: there is no such time any more")
    _allowed(due - now, "schedule", config)
    return clock, due, again


def _allowed(ms: int, field: str, config: SchedulesConfig) -> int:
    if ms < 0:
        raise _wrong(f"{field}: is {-ms / 1000:.0f} s ago")
    if ms > config.ahead * 1000:
        raise _wrong(f"{field}: {ms / 1000:g} s ahead; at most {config.ahead:g} s are allowed")
    return ms


def _wrong(text: str) -> Refusal:
    return Refusal(text, ReasonCode.TOPIC_NAME_INVALID)
