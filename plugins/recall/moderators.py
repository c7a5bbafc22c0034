"""Who may recall what others sent: plugins say so, each for the topics that it knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Moderator = Callable[[str, str], Awaitable[bool]]
"""Whether a user (key) may recall what others sent to a topic."""

_SHARED = "moderators"


def add_moderator(context: Any, moderator: Moderator) -> None:
    """Have a question more asked: for another plugin's ``__init__``. One yes is enough."""
    moderators_of(context).append(moderator)


def moderators_of(context: Any) -> list[Moderator]:
    """The questions that are asked."""
    found: list[Moderator] = context.shared.setdefault(_SHARED, [])
    return found
