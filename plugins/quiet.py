"""Who wants no notification of what: plugins say so, each for the topics that it knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Quiet = Callable[[str, str], Awaitable[bool]]
"""Whether a user (key) wants no notification of what is published to a topic. Raises `StorageError` to be asked again."""

_SHARED = "quiet"


def add_quiet(context: Any, quiet: Quiet) -> None:
    """Have a question more asked: for another plugin's ``__init__``. One yes is enough."""
    quiet_of(context).append(quiet)


def quiet_of(context: Any) -> list[Quiet]:
    """The questions that are asked."""
    found: list[Quiet] = context.shared.setdefault(_SHARED, [])
    return found
