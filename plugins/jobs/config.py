"""What config.yaml may say under ``plugins: jobs:``. Every bad value is refused with what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.config import parse_duration
from broker.packets import ProtocolViolation, matches, validate_filter
from plugins.jobs.schedule import Schedule


@dataclass(frozen=True)
class Rule:
    """How long messages of the topics that match ``filter`` are kept; without ``max_age`` and ``max_messages``, for ever."""

    filter: str
    max_age: str | int | float | None = None
    """Seconds, or "30d": older messages are removed."""
    max_messages: int | None = None
    """Of each conversation, what is beyond its newest so many is removed."""
    even_unacknowledged: bool = False
    """Whether that holds for messages that a device has not acknowledged, too: the device then never gets them."""

    def __post_init__(self) -> None:
        try:
            validate_filter(self.filter)
        except ProtocolViolation as violation:
            raise ValueError(f"retention.rules: {violation.text}") from violation
        _ = self.seconds
        if self.max_messages is not None and self.max_messages < 0:
            raise ValueError(f"retention.rules: max_messages {self.max_messages} of {self.filter!r} must be 0 or more")

    @property
    def seconds(self) -> float | None:
        """``max_age`` in seconds."""
        if self.max_age is None:
            return None
        try:
            seconds = parse_duration(self.max_age)
        except ValueError:
            seconds = None
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
            raise ValueError(
                f'retention.rules: max_age {self.max_age!r} of {self.filter!r} must be a duration, such as "30d" or 3600'
            )
        return float(seconds)

    @property
    def removes(self) -> bool:
        """Whether it removes anything at all."""
        return self.max_age is not None or self.max_messages is not None


@dataclass(frozen=True)
class Scheduled:
    """A job's section."""

    schedule: str | int | bool = "never"
    """An interval ("6h"), a cron line in local time ("30 3 * * *"), or never, which leaves running it to people."""

    def __post_init__(self) -> None:
        Schedule.parse(self.schedule)


@dataclass(frozen=True)
class Retention(Scheduled):
    """Which messages are removed from the conversations."""

    schedule: str | int | bool = "1h"
    rules: list[Rule] = field(default_factory=list)
    """The first whose filter matches a topic decides. What no rule matches is kept for ever."""

    def rule(self, topic: str) -> Rule | None:
        """The rule of a topic."""
        return rule_of(self.rules, topic)


@dataclass(frozen=True)
class Inboxes(Scheduled):
    """How much of what every device has acknowledged stays in the inboxes."""

    schedule: str | int | bool = "0 4 * * *"
    keep: int = 10_000
    """Acknowledged entries kept in each inbox: so far back an offset can be set, and so far back a new device can begin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 0:
            raise ValueError(f"inboxes.keep {self.keep}: must be 0 or more")


@dataclass(frozen=True)
class Sessions(Scheduled):
    """When sessions whose time has passed are looked for, beside the clock that ends each at its time."""

    schedule: str | int | bool = "1h"


@dataclass(frozen=True)
class Index(Scheduled):
    """When the search index is compared with the store."""

    schedule: str | int | bool = "0 5 * * sun"


def rule_of(rules: Sequence[Rule], topic: str) -> Rule | None:
    """The first rule that matches."""
    return next((rule for rule in rules if matches(rule.filter, topic)), None)
