"""What config.yaml may say under ``plugins: schedules:``. Every bad value is refused with what would be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.config import parse_duration, parse_size

MAX_SIZE = 768 << 10
"""The most that ``max_size`` may be: the rest of a row is for the topic and the other names."""


@dataclass
class SchedulesConfig:
    """Settings under ``plugins: schedules:``."""

    max_ahead: str | int | float = "365d"
    """How far ahead a message may be scheduled."""
    max_per_user: int = 1000
    """Messages of one user that may wait."""
    max_size: str | int = "256 KiB"
    """Bytes of payload and properties of one of them."""
    shortest_interval: str | int | float = "60s"
    """The shortest interval of one that comes again and again."""
    skip_older_than: str | int | float = 0
    """What is overdue by more than that when it could be published, after downtime, is skipped; 0: all is published at once."""

    def __post_init__(self) -> None:
        self.ahead = _seconds("max_ahead", self.max_ahead, 1.0)
        self.shortest = _seconds("shortest_interval", self.shortest_interval, 1.0)
        self.skip = _seconds("skip_older_than", self.skip_older_than, 0.0)
        if not 1 <= self.max_per_user <= 1_000_000:
            raise ValueError(f"max_per_user {self.max_per_user}: must be 1 to 1000000")
        size = _parsed("max_size", self.max_size, parse_size)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
            raise ValueError(f'max_size {self.max_size!r}: must be a size of at most {MAX_SIZE >> 10} KiB, such as "64 KiB"')
        self.size = size


def _seconds(name: str, value: object, least: float) -> float:
    found = _parsed(name, value, parse_duration)
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= 100 * 365 * 86400:
        raise ValueError(f'{name} {value!r}: must be a duration of {least:g} s or more, such as "30d" or 3600')
    return float(found)


def _parsed(name: str, value: object, parse: Any) -> object:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name} {value!r}: must be {error}") from None
