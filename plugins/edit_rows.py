"""Which messages are later versions of which: rows of storage, one for each edit, and one for each recall of such.

A row's part is the topic. Its key is the sequence of the first version, and the id of the edit; its value is empty. So two
nodes that store edits of one message do not meet, and what belongs to a page of a conversation is a stretch of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from storage.records import Append, Message, PutRow, Row

TABLE = "versions"
TAKEN = "recalled versions"
"""The table of what a message recalls beside those that it names: the other versions of these. A row's key is the id of the
message that recalls, its value the ids."""
MOST = 50
"""Edits of one message."""
_PAGE = 1000


class Rows(Protocol):
    """What of storage is read."""

    async def read_messages(self, ids: Sequence[int]) -> list[Message]: ...

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]: ...


def edit_row(seq: int, edit: Append) -> PutRow:
    """That a message is an edit of the one with this sequence, in its topic."""
    return PutRow.naming(edit, TABLE, edit.message.topic, lambda id: (f"{seq:016d} {id:016x}", b""))


def taken_row(by: Append, ids: Iterable[int]) -> PutRow:
    """That a message recalls these, too."""
    value = b"".join(id.to_bytes(8, "big") for id in ids)
    return PutRow.naming(by, TAKEN, by.message.topic, lambda id: (f"{id:016x}", value))


async def taken_by(storage: Rows, topic: str, by: int) -> list[int]:
    """The ids of what a message recalls beside those that it names."""
    found = await storage.rows(TAKEN, topic, prefix=f"{by:016x}", limit=1)
    value = found[0].value if found else b""
    return [int.from_bytes(value[at : at + 8], "big") for at in range(0, len(value), 8)]


async def edits_of(storage: Rows, topic: str, seq: int) -> list[int]:
    """The ids of the edits of one message, the oldest first."""
    found = await storage.rows(TABLE, topic, prefix=f"{seq:016d} ", limit=2 * MOST)
    return [int(row.key[17:], 16) for row in found]


async def edits_between(storage: Rows, topic: str, first: int, last: int) -> dict[int, list[int]]:
    """By sequence, those of the messages with ``first`` <= seq <= ``last`` that have any."""
    found: dict[int, list[int]] = {}
    after = f"{first:016d}"
    while True:
        page = await storage.rows(TABLE, topic, after=after, limit=_PAGE)
        for row in page:
            seq = int(row.key[:16])
            if seq > last:
                return found
            found.setdefault(seq, []).append(int(row.key[17:], 16))
        if len(page) < _PAGE:
            return found
        after = page[-1].key
