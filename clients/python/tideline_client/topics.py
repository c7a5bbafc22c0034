"""What may be a topic or a filter. The broker ends the connection of who gets it wrong, so it is told before it is kept."""

from __future__ import annotations

_LONGEST = 65535


def check_topic(topic: str) -> None:
    """Raises `ValueError` where a message cannot be published to ``topic``."""
    _common("topic", topic)
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {topic[:80]!r}: a message goes to one topic; + and # are for filters")


def check_filter(filter_: str) -> None:
    """Raises `ValueError` where ``filter_`` is none."""
    _common("filter", filter_)
    levels = filter_.split("/")
    if any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels) or "#" in levels[:-1]:
        raise ValueError(f"filter {filter_[:80]!r}: + stands for one whole level, # for all levels at the end")


def _common(kind: str, value: str) -> None:
    shown = f"{kind} {value[:80]!r}"
    if not value:
        raise ValueError(f"{shown}: must have at least one character")
    if any(c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{shown}: may have no control characters and no half of a surrogate pair")
    if (size := len(value.encode())) > _LONGEST:
        raise ValueError(f"{shown}: has {size} bytes of UTF-8, {_LONGEST} is the most")
