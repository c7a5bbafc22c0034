"""What plugins hide of topics from users: the beginning of a conversation from who joined it later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from storage.errors import StorageError

_AGAIN = 0.5
"""Seconds until storage that is away is asked again."""


class Hiding(Protocol):
    """The plugins that hide something (`broker.access.Hiding`), as one."""

    @property
    def hiding(self) -> Sequence[object]:
        """They are; nearly always none."""

    def of_members(self, topic: str) -> bool: ...

    async def hidden(self, user: str, topic: str) -> int: ...


async def hidden_of(hiding: Hiding, user: str, topics: Iterable[str], present: Callable[[], bool]) -> dict[str, int] | None:
    """The last sequence of each topic that a user is not to be given, where there is one; None where whoever wants to know is
    no longer ``present``. While storage is away it waits, as for an ACL that does not answer."""
    found: dict[str, int] = {}
    for topic in topics:
        while True:
            try:
                last = await hiding.hidden(user, topic)
                break
            except StorageError:
                await asyncio.sleep(_AGAIN)
            if not present():
                return None
        if last:
            found[topic] = last
    return found
