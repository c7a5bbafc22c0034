"""Who reacted to which message with what: rows of storage.

- table ``reactions``, a row for each user and reaction: the part is the topic, the key the message's sequence, the user and
  the reaction;
- table ``reaction counts``, a row for each message: the key is its sequence, the value how often each reaction was given. What
  belongs to a page of a conversation is a stretch of these, of as many rows as messages at most.

The counts follow from the others, and are counted anew at each change: two nodes that change them at once cannot leave a wrong
number for long.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from storage.records import DropRow, PutRow, Row

GIVEN, COUNTS = "reactions", "reaction counts"
MOST = 1000
"""Reactions to one message, of all users together."""
MOST_KINDS = 20
"""Different ones."""
LONGEST = 64
"""Bytes of one."""
_STRETCH = 200
"""Rows that are read at once where those of several messages are wanted; others may lie between."""
_STRETCH_BYTES = 1 << 20


class Rows(Protocol):
    """What of storage is read."""

    async def row(self, table: str, part: str, key: str) -> Row | None: ...

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]: ...


class Given(NamedTuple):
    """One reaction of one user."""

    user: str
    reaction: str


def place(seq: int) -> str:
    """The key of a message's counts."""
    return f"{seq:016d}"


def _seq(key: str) -> int:
    return int(key[: len(place(0))])


def given_key(seq: int, one: Given) -> str:
    """The key of a reaction: no user key and no reaction has a line feed."""
    return f"{seq:016d} {one.user}\n{one.reaction}"


async def rows_of(storage: Rows, table: str, topic: str, seqs: Iterable[int]) -> dict[int, list[Row]]:
    """By sequence, the rows of some messages. A read gives those of as many as there is room for: the many that have none take
    none of their own."""
    found: dict[int, list[Row]] = {seq: [] for seq in sorted(set(seqs))}
    left = deque(found)
    prefix, limit = (place(left[0]), MOST) if len(left) == 1 else ("", _STRETCH)
    after = ""
    while left:
        after = max(after, f"{place(left[0] - 1)}!")  # behind all that is of the message before it
        page = await storage.rows(table, topic, after=after, prefix=prefix, limit=limit, max_bytes=_STRETCH_BYTES)
        for row in page:
            if (of := found.get(_seq(row.key))) is not None:
                of.append(row)
        if len(page) < limit and sum(len(row.value) for row in page) < _STRETCH_BYTES:
            break
        after = page[-1].key
        while left and left[0] < _seq(after):
            left.popleft()
    return found


def given_by(row: Row) -> Given:
    """What a row of `GIVEN` says."""
    return Given(*row.key[len(place(0)) + 1 :].split("\n", 1))


async def given_to(storage: Rows, topic: str, seq: int) -> set[Given]:
    """All reactions to one message."""
    return {given_by(row) for row in (await rows_of(storage, GIVEN, topic, [seq]))[seq]}


def counted(given: Iterable[Given]) -> dict[str, int]:
    """How often each was given, the most frequent first."""
    return dict(sorted(Counter(one.reaction for one in given).items(), key=lambda pair: (-pair[1], pair[0])))


def counts_row(topic: str, seq: int, kept: Row | None, given: Iterable[Given]) -> PutRow | DropRow:
    """What makes a message's counts those of these reactions, unless somebody else has written them since they were ``kept``.
    That is to be read before the reactions: who adds one in between has changed it."""
    counts = counted(given)
    if not counts:
        return DropRow(COUNTS, topic, place(seq), None if kept is None else kept.revision)
    return PutRow(COUNTS, topic, place(seq), json.dumps(counts).encode(), 0 if kept is None else kept.revision)


async def counts_between(storage: Rows, topic: str, first: int, last: int, limit: int) -> dict[int, dict[str, int]]:
    """By sequence, the counts of the messages with ``first`` <= seq <= ``last``, of which there are at most ``limit``."""
    found = await storage.rows(COUNTS, topic, after=place(first - 1), limit=limit)
    return {int(row.key): json.loads(row.value) for row in found if int(row.key) <= last}
