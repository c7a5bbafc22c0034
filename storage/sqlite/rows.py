"""Rows: what plugins keep, of which there may be much.

Each change takes the next number of one counter, in its own transaction: so a revision is never given twice, and the counter
tells whether a group whose outcome is unknown got through.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from storage import rules
from storage.names import PARTS, pages_of_names, prefix_end
from storage.records import DropRow, Operation, PutRow, Row

_REVISION = "SELECT revision FROM rows WHERE kind = ? AND part = ? AND key = ?"
_NEXT = "UPDATE meta SET value = value + 1 WHERE key = 'revision' RETURNING value"
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


def _revision(connection: sqlite3.Connection, op: PutRow | DropRow) -> int:
    found = connection.execute(_REVISION, (op.table, op.part, op.key)).fetchall()
    return int(found[0][0]) if found else 0


def put(connection: sqlite3.Connection, op: PutRow) -> None:
    """Add or replace a row."""
    op.revision = 0
    rules.changes_row(op, _revision(connection, op))
    ((op.revision,),) = connection.execute(_NEXT).fetchall()
    values = (op.table, op.part, op.key, op.revision, op.value)
    connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", values)


def drop(connection: sqlite3.Connection, op: DropRow) -> None:
    """Remove a row."""
    op.revision = 0
    if rules.changes_row(op, _revision(connection, op)):
        ((op.revision,),) = connection.execute(_NEXT).fetchall()
        connection.execute("DELETE FROM rows WHERE kind = ? AND part = ? AND key = ?", (op.table, op.part, op.key))


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
