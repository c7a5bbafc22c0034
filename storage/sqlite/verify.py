"""Checking a SQLite file, and mending it. A check is one read transaction beside a broker; mending is one write transaction, so
that a crash leaves all as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from storage.errors import NoDatabase
from storage.packing import pack_inflight, unpack_inflight
from storage.sqlite.connection import connect_reader, connect_writer, translate
from storage.sqlite.damage import LARGEST_GAP, RUN, damages
from storage.sqlite.database_file import is_there, refuse_empty
from storage.sqlite.runs import REMOVE_ENTRY, remove_through
from storage.sqlite.runs import VERSION as RUNS
from storage.sqlite.schema import VERSION, check_version, migrate
from storage.sqlite.serving_lock import ServingLock
from storage.sqlite.unsound import Unsound, made_sound, unsound
from storage.verify import TOLD, Finding, Report

Rows = list[tuple[Any, ...]]

_INDEXES = ("missing from index", "wrong # of entries in index", "non-unique entry in index")
"""Of SQLite's own words: the table is whole, and an index is not."""
_STATEMENTS = {
    "unregistered": (
        """INSERT INTO conversations (id, topic, floor) SELECT conversation, 'lost-and-found/' || conversation, min(seq) - 1
        FROM store WHERE conversation NOT IN (SELECT id FROM conversations) GROUP BY conversation""",
    ),
    "nobody": ("DELETE FROM sync WHERE user NOT IN (SELECT id FROM users)",),
    "removed-messages": ("DELETE FROM store WHERE seq <= (SELECT floor FROM conversations WHERE id = store.conversation)",),
    "left-over": (
        "DELETE FROM subscriptions WHERE device NOT IN (SELECT id FROM devices)",
        "DELETE FROM received WHERE place >> 16 NOT IN (SELECT id FROM devices)",
    ),
}
_ROWS = {
    "dangling": (2, REMOVE_ENTRY),
    "since": (
        5,
        """UPDATE subscriptions SET since = ?5
        WHERE filter = ?3 AND device = (SELECT id FROM devices WHERE user = ?1 AND client = ?2)""",
    ),
    "retained": (1, "UPDATE retained SET seq = 0 WHERE topic = ?1"),
    "position": (4, "UPDATE participants SET position = ?4 WHERE user = ?1 AND topic = ?2"),
}
"""For each row that the query gave: of how many of its values, and what."""


class SqliteVerifier:
    """A `storage.verify.Verifier` of the file at ``path``."""

    def __init__(self, path: str | Path, busy_timeout: float = 5.0) -> None:
        self._path = Path(path).expanduser()
        self._busy_timeout = busy_timeout

    async def check(self, report: Report) -> list[Finding]:
        """See `storage.verify.Verifier`."""
        self._require()
        try:
            with closing(connect_reader(self._path, self._busy_timeout)) as connection:
                version = check_version(connection, str(self._path))
                connection.execute("BEGIN")
                structure = _structure(connection, report)
                return structure or [damage.finding(rows) for damage, rows in _found(connection, report, version) if rows]
        except sqlite3.Error as error:
            raise translate(error, str(self._path)) from error

    async def repair(self, report: Report) -> list[Finding]:
        """See `storage.verify.Verifier`."""
        self._require()
        lock = ServingLock(self._path)
        lock.take()
        try:
            with closing(connect_writer(self._path, busy_timeout=self._busy_timeout)) as connection:
                migrate(connection, str(self._path))
                connection.execute("BEGIN IMMEDIATE")
                found = _mend_all(connection, report)
                connection.execute("COMMIT")
                return found
        except sqlite3.Error as error:
            raise translate(error, str(self._path)) from error
        finally:
            lock.release()

    def _require(self) -> None:
        if not is_there(self._path):
            raise NoDatabase(f"{self._path}: there is no database")
        refuse_empty(self._path)


def _structure(connection: sqlite3.Connection, report: Report) -> list[Finding]:
    """What SQLite itself finds: nothing else can be trusted until that is mended."""
    report("the structure of the file")
    lines = [row[0] for row in connection.execute("PRAGMA integrity_check(1000)").fetchall() if row[0] != "ok"]
    indexes = [line for line in lines if any(words in line for words in _INDEXES)]
    others = [line for line in lines if line not in indexes]
    found = []
    if indexes:
        found.append(Finding("index", "indexes that differ from their tables", len(indexes), indexes[:TOLD], "made again"))
    if others:
        found.append(Finding("structure", "damage to the file's structure: restore a backup", len(others), others[:TOLD], ""))
    return found


def _found(connection: sqlite3.Connection, report: Report, version: int) -> list[tuple[Any, Rows]]:
    report(RUN.what)
    rows = unsound(connection) if version >= RUNS else []
    found: list[tuple[Any, Rows]] = [(RUN, list(rows))]
    for damage in damages(version, rows):
        report(damage.what)
        found.append((damage, connection.execute(damage.query).fetchall()))
    return found


def _mend_all(connection: sqlite3.Connection, report: Report) -> list[Finding]:
    found = _structure(connection, report)
    if any(not finding.mended for finding in found):
        return found
    if found:
        connection.execute("REINDEX")
    report(RUN.what)
    if damaged := unsound(connection):
        _tell_again(connection, damaged)
        found.append(RUN.finding(list(damaged)))
    for damage in damages(VERSION):  # one after the other
        report(damage.what)
        rows = connection.execute(damage.query).fetchall()
        if rows:
            mend(connection, damage.kind, rows)
            found.append(damage.finding(rows))
    return found


def mend(connection: sqlite3.Connection, kind: str, rows: Rows) -> None:
    """Mend what a damage's query found."""
    if (special := _SPECIAL.get(kind)) is not None:
        special(connection, rows)
    for statement in _STATEMENTS.get(kind, ()):
        connection.execute(statement)
    if kind in _ROWS:
        values, statement = _ROWS[kind]
        connection.executemany(statement, [row[:values] for row in rows])


def _fill_conversations(connection: sqlite3.Connection, rows: Rows) -> None:
    for topic, first, last in rows:
        if last - first >= LARGEST_GAP:
            continue
        ((number,),) = connection.execute("SELECT id FROM conversations WHERE topic = ?", (topic,)).fetchall()
        query = "SELECT id, time FROM store WHERE conversation = ? AND seq = ?"
        ((following, time),) = connection.execute(query, (number, last + 1)).fetchall()
        before = connection.execute(query, (number, first - 1)).fetchall()
        id = before[0][0] if before else following - (last - first) - 2
        for seq in range(first, last + 1):
            id += 1
            while connection.execute("SELECT 1 FROM store WHERE id = ?", (id,)).fetchall():
                id += 1
            connection.execute(
                "INSERT INTO store VALUES (?, ?, ?, 'b/tideline', '', ?, 0, 0, 1, x'', x'')",
                (id, number, seq, before[0][1] if before else time),
            )


def _fill_inboxes(connection: sqlite3.Connection, rows: Rows) -> None:
    for user, first, last in rows:
        if last - first < LARGEST_GAP:
            query = "INSERT INTO sync (user, seq, message) SELECT id, ?, 0 FROM users WHERE key = ?"
            connection.executemany(query, [(seq, user) for seq in range(first, last + 1)])


def _remove_below(connection: sqlite3.Connection, rows: Rows) -> None:
    for user, _ in rows:
        ((number, floor),) = connection.execute("SELECT id, floor FROM users WHERE key = ?", (user,)).fetchall()
        remove_through(connection, number, floor)


def _move_back(connection: sqlite3.Connection, rows: Rows) -> None:
    for user, client, offset, cursor, head in rows:
        offset = min(offset, head)
        cursor = max(offset, min(cursor, head))
        place = (user, client)
        ((packed,),) = connection.execute("SELECT inflight FROM devices WHERE user = ? AND client = ?", place).fetchall()
        inflight = [entry for entry in unpack_inflight(packed) if entry.timeline or offset < entry.seq <= cursor]
        connection.execute(
            "UPDATE devices SET position = ?, cursor = ?, inflight = ? WHERE user = ? AND client = ?",
            (offset, cursor, pack_inflight(inflight), *place),
        )


def _tell_again(connection: sqlite3.Connection, rows: Sequence[Unsound]) -> None:
    for damaged in rows:
        message, count, run, _ = made_sound(connection, damaged)
        connection.execute(
            """UPDATE sync SET message = ?1, count = ?2, run = ?3, target = iif(?2 = 1, target, NULL)
            WHERE user = ?4 AND seq = ?5""",
            (message, count, run, damaged.number, damaged.last),
        )


_SPECIAL: dict[str, Callable[[sqlite3.Connection, Rows], None]] = {
    "conversation-gap": _fill_conversations,
    "inbox-gap": _fill_inboxes,
    "removed-entries": _remove_below,
    "offset": _move_back,
}
