"""Everything in a SQLite file as records, at one moment: one read transaction, beside the broker that serves it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from storage.cluster import number_of
from storage.errors import NoDatabase, StorageError
from storage.packing import unpack_inflight
from storage.restored import unmarked
from storage.sqlite import queries
from storage.sqlite.connection import connect_reader, translate
from storage.sqlite.database_file import is_there, refuse_empty
from storage.sqlite.runs import VERSION as RUNS
from storage.sqlite.runs import entries_in
from storage.sqlite.schema import check_version
from storage.sqlite.unsound import Unsound, made_sound, unsound
from storage.transfer import About, Record

_PAGE = 1000
_DEVICES = """
    SELECT 'device', d.user, d.client, d.epoch, d.expiry, d.expires_at, d.created_at, d.position, d.cursor, d.inflight,
        (SELECT json_group_array(json_array(filter, options, identifier, since)) FROM subscriptions WHERE device = d.id),
        (SELECT json_group_array(place & 65535) FROM received WHERE place BETWEEN d.id << 16 AND d.id << 16 | 65535),
        d.will, d.will_at
    FROM devices AS d ORDER BY d.id
"""
_ENTRY = "coalesce(m.time, r.time, 0), coalesce(length(m.payload), length(r.payload), 0)"
_FIELDS = "seq, m.id, m.user, m.device, m.time, m.qos, m.retain, m.expires, m.properties, m.payload"
_SIMPLE = {
    "settings": "SELECT 'setting', kind, key, CAST(value AS BLOB) FROM settings ORDER BY kind, key",
    "rows": "SELECT 'row', kind, part, key, revision, CAST(value AS BLOB) FROM rows ORDER BY kind, part, key",
    "tokens": "SELECT 'token', id, digest, user, label, created, expires FROM tokens ORDER BY id",
    "jobs": "SELECT 'job', name, schedule, next_run, started, ended, outcome, detail FROM jobs ORDER BY name",
    "idempotency": "SELECT 'once', user, key, digest, message, seq, until FROM idempotency ORDER BY id",
    "participants": "SELECT 'participant', user, topic, joined, position FROM participants ORDER BY user, topic",
    "retained": f"SELECT 'retained', m.topic, m.{_FIELDS} FROM retained AS m ORDER BY m.topic",
    "users": "SELECT 'inbox', key, floor FROM users ORDER BY id",
    "sync": f"""
        SELECT 'entry', u.key, s.seq, s.message, ifnull(s.target, ''), {_ENTRY}
        FROM users AS u CROSS JOIN ENTRIES AS s ON s.user = u.id
        LEFT JOIN store AS m ON m.id = s.message LEFT JOIN retained AS r ON r.id = s.message ORDER BY u.id, s.last
    """,
    "conversations": "SELECT 'conversation', topic, floor, floor_time FROM conversations ORDER BY id",
    "store": f"""
        SELECT 'message', c.topic, m.{_FIELDS}
        FROM conversations AS c CROSS JOIN store AS m ON m.conversation = c.id ORDER BY c.id, m.seq
    """,
}
"""By table, in the order of `storage.transfer.KINDS`. A file of an earlier schema may lack one."""
_TOLD = """
    CREATE TEMP TABLE told (user INTEGER, seq INTEGER, message INTEGER, count INTEGER, run TEXT, PRIMARY KEY (user, seq))
    WITHOUT ROWID
"""
_SYNC_AS_TOLD = f"""
    SELECT 'entry', u.key, ifnull(s.seq - ifnull(t.count, s.count) + 1 + e.key, s.seq) AS place,
        ifnull(t.message, s.message) - ifnull(e.value, 0) AS entry,
        iif(ifnull(t.count, 1) = 1, ifnull(s.target, ''), ''), {_ENTRY}
    FROM users AS u CROSS JOIN sync AS s ON s.user = u.id LEFT JOIN told AS t ON t.user = s.user AND t.seq = s.seq
    LEFT JOIN json_each(iif(t.seq IS NULL, s.run, t.run)) AS e
    LEFT JOIN store AS m ON m.id = entry LEFT JOIN retained AS r ON r.id = entry
    WHERE place > u.floor ORDER BY u.id, s.seq
"""
"""The entries where some rows do not say theirs: what was made of those is in ``told``."""


class SqliteSource:
    """A `storage.transfer.Source`. The file's log grows while it is open, as nothing of this moment is overwritten."""

    def __init__(self, path: str | Path, busy_timeout: float = 5.0) -> None:
        self._path = Path(path).expanduser()
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._version = 0
        self.lost: list[str] = []

    async def __aenter__(self) -> Self:
        if not is_there(self._path):
            raise NoDatabase(f"{self._path}: there is no database")
        refuse_empty(self._path)
        try:
            self._connection = connection = connect_reader(self._path, self._busy_timeout)
            self._version = check_version(connection, str(self._path))
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM meta").fetchall()  # the moment that is read
        except sqlite3.Error as error:
            await self.__aexit__()
            raise self._wrong(error) from error
        except StorageError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _wrong(self, error: sqlite3.Error) -> StorageError:
        return translate(error, str(self._path))

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None, "it is read within its context"
        return self._connection

    async def about(self) -> About:
        """See `storage.transfer.Source`."""
        connection = self._open
        try:
            tables = [*self._tables(), "devices"]
            entries = "ifnull(sum(count), 0)" if self._version >= RUNS else "count(*)"
            counts = [f"SELECT {entries if table == 'sync' else 'count(*)'} FROM {table}" for table in tables]
            count = sum(connection.execute(query).fetchall()[0][0] for query in counts)
            epoch = queries.data_epoch(connection)
        except sqlite3.Error as error:
            raise self._wrong(error) from error
        return About("sqlite", epoch.id, count, time.time_ns() // 1_000_000)

    def _tables(self) -> list[str]:
        there = {row[0] for row in self._open.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
        return [table for table in _SIMPLE if table in there]

    async def records(self) -> AsyncIterator[list[Record]]:
        """See `storage.transfer.Source`."""
        try:
            for page in self._pages():
                yield page
        except sqlite3.Error as error:
            raise self._wrong(error) from error

    def _pages(self) -> Iterator[list[Record]]:
        connection = self._open
        for page in _pages(connection.execute(_DEVICES)):
            yield [_device(row) for row in page]
        last: dict[int, int] = {}
        for table in self._tables():
            query = _SIMPLE[table].replace("ENTRIES", entries_in(self._version))
            if table == "sync" and self._version >= RUNS and (damaged := unsound(connection)):
                self._tell(damaged)
                query = _SYNC_AS_TOLD
            for page in _pages(connection.execute(query)):
                if table in ("store", "retained"):
                    _note(last, (record[3] for record in page))
                yield page
        _note(last, [queries.last_id(connection)])
        yield [("id", number, id) for number, id in sorted(last.items())]

    def _tell(self, damaged: list[Unsound]) -> None:
        """Make of rows what can be told of them, beside the file."""
        connection = self._open
        connection.execute("PRAGMA query_only=OFF").fetchall()  # the file itself is opened to be read
        connection.execute(_TOLD)
        for row in damaged:
            message, count, run, told = made_sound(connection, row)
            connection.execute("INSERT INTO told VALUES (?, ?, ?, ?, ?)", (row.number, row.last, message, count, run))
            self.lost.append(f"inbox {row.user!r}, entries {row.first} to {row.last}: {told} of {count} can be told")


def _pages(cursor: sqlite3.Cursor) -> Iterator[list[Record]]:
    while page := cursor.fetchmany(_PAGE):
        yield page


def _note(last: dict[int, int], ids: Iterable[int]) -> None:
    for id in ids:
        number = number_of(id)
        if id > last.get(number, 0):
            last[number] = id


def _device(row: tuple[Any, ...]) -> Record:
    kind, user, client, epoch, expiry, expires_at, created_at, offset, cursor, inflight, filters, received, *will = row
    entries = [[*entry] for entry in unpack_inflight(inflight)]
    fields = expiry, expires_at, created_at, offset, cursor, entries, sorted(json.loads(filters)), sorted(json.loads(received))
    return (kind, user, client, unmarked(epoch), *fields, *will)
