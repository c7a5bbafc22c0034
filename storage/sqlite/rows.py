"""Rows: what plugins keep, of which there may be much.

Each change takes the next number of one counter, in its own transaction: so a revision is never given twice, and the counter
tells whether a group whose outcome is unknown got through.

The rows of a group are gathered as its messages are (`storage.sqlite.batch`): a look at what is there, one write of those that
are put, one of those that are dropped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from storage import rules
from storage.names import PARTS, pages_of_names, prefix_end
from storage.records import DropRow, Operation, PutRow, Row
from storage.sqlite.batch import insert

_LAST = "SELECT value FROM meta WHERE key = 'revision'"
_THERE = """
    SELECT json_group_array(json_array(asked.column1, r.revision)) FROM (VALUES {}) AS asked CROSS JOIN rows AS r
    ON r.kind = asked.column2 AND r.part = asked.column3 AND r.key = asked.column4
"""
_PUT = "INSERT OR REPLACE INTO rows VALUES"
_DROP = "DELETE FROM rows WHERE (kind, part, key) IN (SELECT column1, column2, column3 FROM (VALUES {}))"
"""Through a SELECT, as SQLite looks each up in the index then; a bare list has it go through all rows."""
_COUNTED = "UPDATE meta SET value = ? WHERE key = 'revision'"
_PAGE = """
    WITH page AS (
        SELECT key, length(value) AS size, sum(length(value)) OVER (ORDER BY key ROWS UNBOUNDED PRECEDING) AS total FROM (
            SELECT key, value FROM rows
            WHERE kind = :kind AND part = :part AND key > :after AND key >= :begin AND (:end = '' OR key < :end)
            ORDER BY key LIMIT :limit
        )
    )
    SELECT kind, part, key, CAST(value AS BLOB), revision FROM rows
    WHERE kind = :kind AND part = :part AND key IN (SELECT key FROM page WHERE total - size < :max_bytes) ORDER BY key
"""
_PARTS = """
    WITH RECURSIVE found (part) AS (
        SELECT * FROM (SELECT part FROM rows WHERE kind = :kind AND part >= :from AND NOT (:past AND part = :from)
            ORDER BY part LIMIT 1)
        UNION ALL
        SELECT (SELECT part FROM rows WHERE kind = :kind AND part > found.part ORDER BY part LIMIT 1) FROM found
        WHERE found.part IS NOT NULL LIMIT :limit
    )
    SELECT part FROM found WHERE part IS NOT NULL
"""
"""One step down the index for each part, however many rows it has."""


_SIZES = (1, 8, 32, 128, 256)
"""How many rows one look is for: a look for fewer asks for its last one again, so that few statements need preparing."""

Names = tuple[str, str, str]


class RowBatch:
    """What a group does to rows: `load`, then `put` and `drop`, then `write`; `clear` where it is not to be after all."""

    def __init__(self) -> None:
        self._there: dict[Names, int] = {}
        """Revisions as of this place in the group."""
        self._changed: dict[Names, tuple[int, bytes | None]] = {}
        self._last = 0

    def load(self, connection: sqlite3.Connection, group: Sequence[PutRow | DropRow]) -> None:
        """Look at what is there. What is put whatever is there needs no look."""
        self._there = {}
        wanted = [_names(op) for op in group if op.expected is not None or isinstance(op, DropRow)]
        for start in range(0, len(wanted), _SIZES[-1]):
            some = wanted[start : start + _SIZES[-1]]
            self._there.update(_look(connection, some))
        ((self._last,),) = connection.execute(_LAST).fetchall()

    def put(self, op: PutRow) -> None:
        """Add or replace a row. Raises as `rules.changes_row`."""
        op.revision = 0
        names = _names(op)
        if rules.changes_row(op, self._there.get(names, 0)):
            self._there[names] = self._change(op, names, op.value)

    def drop(self, op: DropRow) -> None:
        """Remove a row. Raises as `rules.changes_row`."""
        op.revision = 0
        names = _names(op)
        if rules.changes_row(op, self._there.get(names, 0)):
            self._change(op, names, None)
            self._there[names] = 0

    def _change(self, op: PutRow | DropRow, names: Names, value: bytes | None) -> int:
        self._last += 1
        op.revision = self._last
        self._changed[names] = self._last, value
        return self._last

    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._changed

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all, in the caller's transaction."""
        puts: list[object] = []
        drops: list[object] = []
        for names, (revision, value) in self._changed.items():
            if value is None:
                drops += names
            else:
                puts += (*names, revision, value)
        self._changed = {}
        insert(connection, _PUT, 5, puts)
        insert(connection, _DROP, 3, drops)
        connection.execute(_COUNTED, (self._last,))

    def clear(self) -> None:
        """Forget what was not written."""
        self._there, self._changed = {}, {}


def _names(op: PutRow | DropRow) -> Names:
    return op.table, op.part, op.key


def _look(connection: sqlite3.Connection, some: Sequence[Names]) -> Iterable[tuple[Names, int]]:
    """Those of some rows that are there, each with its revision."""
    size = next(size for size in _SIZES if size >= len(some))
    asked: list[object] = []
    for place in range(size):
        asked += (place, *some[min(place, len(some) - 1)])
    query = _THERE.format(",".join(["(?,?,?,?)"] * size))
    ((found,),) = connection.execute(query, asked).fetchall()
    return [(some[place], revision) for place, revision in json.loads(found) if place < len(some)]


def has_landed(connection: sqlite3.Connection, op: Operation) -> bool | None:
    """Whether the transaction in which an operation took its number was committed; None for one that took none."""
    if not isinstance(op, PutRow | DropRow) or op.error is not None or not op.revision:
        return None
    ((last,),) = connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchall()
    return int(last) >= op.revision


def row(connection: sqlite3.Connection, table: str, part: str, key: str) -> Row | None:
    """See `storage.interface.Rows`."""
    query = "SELECT kind, part, key, CAST(value AS BLOB), revision FROM rows WHERE kind = ? AND part = ? AND key = ?"
    found = connection.execute(query, (table, part, key)).fetchall() if _has(connection) else []
    return Row(*found[0]) if found else None


def rows(
    connection: sqlite3.Connection, table: str, part: str, after: str, prefix: str, limit: int, max_bytes: int
) -> list[Row]:
    """See `storage.interface.Rows`."""
    if not _has(connection) or limit < 1:
        return []
    asked = {"kind": table, "part": part, "after": after, "begin": prefix, "end": prefix_end(prefix)}
    return [Row(*found) for found in connection.execute(_PAGE, {**asked, "limit": limit, "max_bytes": max_bytes}).fetchall()]


def parts(connection: sqlite3.Connection, table: str, after: str | None) -> list[str]:
    """A page of a table's parts behind ``after``; None for the first one."""
    if not _has(connection):
        return []
    asked = {"kind": table, "from": after or "", "past": after is not None, "limit": PARTS}
    found: Sequence[tuple[str]] = connection.execute(_PARTS, asked).fetchall()
    return next(pages_of_names([part for (part,) in found], PARTS), [])


def _has(connection: sqlite3.Connection) -> bool:
    """Whether the file has them: one that is older and is only read has not."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchall())
