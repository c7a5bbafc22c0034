"""What config.yaml may say under ``plugins: jobs:``. Every bad value is refused with what would be right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from broker.config import parse_duration, parse_size
from broker.errors import refuse
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
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        try:
            validate_filter(self.filter)
        except ProtocolViolation as violation:
            yield f"filter: {violation.text}"
        try:
            _ = self.seconds
        except ValueError as error:
            yield str(error)
        if self.max_messages is not None and self.max_messages < 0:
            yield f"max_messages {self.max_messages} of {self.filter!r} must be 0 or more"

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
            raise ValueError(f'max_age {self.max_age!r} of {self.filter!r} must be a duration, such as "30d" or 3600')
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
    max_bytes: str | int | None = None
    """Of all that is stored, or "10 GiB": the oldest messages that no rule keeps for ever go until it holds."""
    keep_free: str | int | None = None
    """The same for the free space of the disk: "10%" of it, or "5 GiB"."""
    even_unacknowledged: bool = False
    """Whether the two hold for messages that a device has not acknowledged, too: the device then never gets them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes is not None:
            _ = self.bytes_in_all
        if self.keep_free is not None:
            self.bytes_free(0)

    @property
    def removes(self) -> bool:
        """Whether it removes anything at all: by a rule, or by a limit in bytes."""
        return self.bounded or any(rule.removes for rule in self.rules)

    @property
    def bounded(self) -> bool:
        """Whether there is a limit in bytes."""
        return self.max_bytes is not None or self.keep_free is not None

    @property
    def bytes_in_all(self) -> int:
        """``max_bytes`` in bytes."""
        return _size("max_bytes", self.max_bytes, 'a size, such as "10 GiB"')

    def bytes_free(self, total: int) -> int:
        """``keep_free`` in bytes of a disk that has ``total``."""
        text = self.keep_free
        if isinstance(text, str) and text.strip().endswith("%"):
            number = text.strip()[:-1].strip()
            if not (number.isascii() and number.isdigit() and int(number) <= 100):
                raise ValueError(f'retention.keep_free {text!r}: must be 0% to 100%, or a size, such as "5 GiB"')
            return total * int(number) // 100
        meant = '"10%" of the disk, or a size, such as "5 GiB"'
        size = _size("keep_free", text, meant)
        if 0 < size <= 100:  # a percentage without its sign would keep so many bytes free, and nobody is acknowledged by then
            raise ValueError(f"retention.keep_free {text!r}: must be {meant}")
        return size

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


def _size(name: str, value: object, meant: str) -> int:
    try:
        size = parse_size(value)
    except ValueError:
        size = None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"retention.{name} {value!r}: must be {meant}")
    return size


def rule_of(rules: Sequence[Rule], topic: str) -> Rule | None:
    """The first rule that matches."""
    return next((rule for rule in rules if matches(rule.filter, topic)), None)
