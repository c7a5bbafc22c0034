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
from collections import Counter
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


def given_key(seq: int, one: Given) -> str:
    """The key of a reaction: no user key and no reaction has a line feed."""
    return f"{seq:016d} {one.user}\n{one.reaction}"


async def given_to(storage: Rows, topic: str, seq: int) -> set[Given]:
    """All reactions to one message."""
    prefix = f"{seq:016d} "
    found: set[Given] = set()
    after = ""
    while page := await storage.rows(GIVEN, topic, prefix=prefix, after=after, limit=MOST):
        found.update(Given(*row.key[len(prefix) :].split("\n", 1)) for row in page)
        after = page[-1].key
    return found


def counted(given: Iterable[Given]) -> dict[str, int]:
    """How often each was given, the most frequent first."""
    return dict(sorted(Counter(one.reaction for one in given).items(), key=lambda pair: (-pair[1], pair[0])))


async def counts_row(storage: Rows, topic: str, seq: int, given: Iterable[Given]) -> PutRow | DropRow:
    """What makes a message's counts those of these reactions, unless somebody else writes them first."""
    kept = await storage.row(COUNTS, topic, place(seq))
    counts = counted(given)
    if not counts:
        return DropRow(COUNTS, topic, place(seq), None if kept is None else kept.revision)
    return PutRow(COUNTS, topic, place(seq), json.dumps(counts).encode(), 0 if kept is None else kept.revision)


async def counts_between(storage: Rows, topic: str, first: int, last: int, limit: int) -> dict[int, dict[str, int]]:
    """By sequence, the counts of the messages with ``first`` <= seq <= ``last``, of which there are at most ``limit``."""
    found = await storage.rows(COUNTS, topic, after=place(first - 1), limit=limit)
    return {int(row.key): json.loads(row.value) for row in found if int(row.key) <= last}
