"""What other plugins keep of users and of conversations: each says what removes its own, for an erasure."""

from __future__ import annotations

from typing import Any, Protocol

_SHARED = "erasers"


class RecordEraser(Protocol):
    """Removes one page of what a plugin keeps of a user or of a conversation."""

    async def __call__(self, what: str, name: str, after: str) -> str | None:
        """``what`` is `plugins.recall.erasure.USER` and ``name`` a user key, or `CONVERSATION` and a topic.

        ``after`` is empty at first, and then what the call before returned; None ends it. Each call may be made again, and all
        of them are: a user's records are removed before its messages, and once more at the end. Raises `StorageError`,
        `Undecided`, `Away` or `Conflict` to be asked again later.
        """


def add_eraser(context: Any, name: str, eraser: RecordEraser) -> None:
    """Have it asked in each erasure: for another plugin's ``__init__``. ``name`` is the plugin's, and keeps its place."""
    erasers_of(context)[name] = eraser


def erasers_of(context: Any) -> dict[str, RecordEraser]:
    """Those that are asked, by name."""
    found: dict[str, RecordEraser] = context.shared.setdefault(_SHARED, {})
    return found
