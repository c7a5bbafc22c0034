"""Following everything that is stored: one position for each writing node, since only the ids of one writer rise.

With one position for all, what a node commits late would be passed over: another one's ids may be higher already. What is
stored late under an id of a node that was read past it comes in a tail of its own (`storage.interface.LATE`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from storage.cluster import number_of
from storage.interface import Tails, TextPage, TextTails
from storage.records import Message

Positions = Mapping[int, int]
"""By the number of each writing node (`storage.interface.Tails`): up to where its messages were read."""

_ASK_AGAIN = 0.2
"""Seconds."""


class Read(NamedTuple):
    """Messages, each writer's by rising id, the positions behind them, and how many were passed over as no text."""

    messages: list[Message]
    positions: Positions
    passed: int = 0

    @property
    def ends(self) -> bool:
        """Whether there are no more for now."""
        return not self.messages and not self.passed


def passed(positions: Positions, message_id: int) -> bool:
    """Whether the positions are at a message or behind it."""
    return message_id <= positions.get(number_of(message_id), 0)


async def next_move(event: asyncio.Event) -> None:
    """Wait for another position, but not for long: a source may tell late of a commit that somebody waits for."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ASK_AGAIN):
            await event.wait()


class Follower:
    """Reads ``source`` on from ``positions``. ``known_ends`` are known from elsewhere, before the source tells. ``texts``: what
    is no text may be passed over, where the source can."""

    def __init__(self, source: Tails, positions: Positions, known_ends: Mapping[int, int], *, texts: bool = False) -> None:
        self.positions = dict(positions)
        """Whose messages were taken over, up to where."""
        self._source = source
        self._texts = source if texts and isinstance(source, TextTails) else None
        self._known_ends = known_ends
        self._ends: dict[int, int] = {}
        """Where the source was complete when it was last asked, of the writers who are not read up to there."""

    @property
    def more(self) -> bool:
        """Whether there is more for sure."""
        return bool(self._ends)

    async def tails(self) -> dict[int, int]:
        """How far each writer's messages are complete now."""
        tails = await self._source.tails()
        return tails | {number: max(id, tails.get(number, 0)) for number, id in self._known_ends.items()}

    async def read(self, limit: int, max_bytes: int) -> Read:
        """The next messages, up to ``limit`` and about ``max_bytes``. `take` makes it go on behind them.

        The writer who is furthest behind comes first. A page may end early for its bytes: only an empty one, or one that comes
        to the end, is a writer's last.
        """
        if not self._ends:
            self._ends = self._unread(await self.tails())
        messages: list[Message] = []
        positions, passed = dict(self.positions), 0
        for number in sorted(self._ends, key=lambda number: positions.get(number, 0)):
            after, through = positions.get(number, 0), self._ends[number]
            page, position, left_out = await self._read(number, after, through, limit - len(messages), max_bytes)
            messages += page
            max_bytes -= sum(len(message.payload) for message in page)
            positions[number] = position
            passed += left_out
            if len(messages) >= limit or max_bytes <= 0:
                break
        return Read(messages, positions, passed)

    async def _read(self, number: int, after: int, through: int, limit: int, max_bytes: int) -> TextPage:
        if self._texts is not None:
            return await self._texts.read_texts_of(number, after, through, limit, max_bytes)
        return TextPage(*await self._source.read_tail_of(number, after, through, limit, max_bytes), 0)

    def take(self, positions: Positions) -> bool:
        """What was read is dealt with; whether the positions are others."""
        before, self.positions = self.positions, dict(positions)
        self._ends = self._unread(self._ends)
        return before != self.positions

    def _unread(self, ends: Mapping[int, int]) -> dict[int, int]:
        return {number: end for number, end in ends.items() if end > self.positions.get(number, 0)}
