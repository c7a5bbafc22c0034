"""A SQLite file made of records: beside its place, and in it by one rename."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from storage.errors import StorageUnusable
from storage.packing import pack_inflight
from storage.private import make_file, make_folder
from storage.records import Inflight, InflightState
from storage.restored import marked
from storage.sqlite.connection import translate
from storage.sqlite.database_file import is_there, refuse_empty
from storage.sqlite.runs import LONGEST, remove_through, run_of
from storage.sqlite.schema import check_version, migrate
from storage.sqlite.serving_lock import ServingLock
from storage.sqlite.swap import swap_in
from storage.transfer import Record

_ROWS = {
    "setting": "INSERT INTO settings VALUES (?, ?, ?)",
    "row": "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
    "token": "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
    "job": "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)",
    "once": "INSERT INTO idempotency (user, key, digest, message, seq, until) VALUES (?, ?, ?, ?, ?, ?)",
    "participant": "INSERT INTO participants VALUES (?, ?, ?, ?)",
    "retained": """
        INSERT INTO retained (topic, seq, id, user, device, time, qos, retain, expires, properties, payload)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """,
    "entry": """
        INSERT INTO sync (user, seq, message, target, count, run)
        VALUES ((SELECT id FROM users WHERE key = ?), ?, ?, nullif(?, ''), ?, ?)
    """,
    "message": """
        INSERT INTO store (conversation, seq, id, user, device, time, qos, retain, expires, properties, payload)
        VALUES ((SELECT id FROM conversations WHERE topic = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """,
}
Remove = Callable[[sqlite3.Connection, int, int], None]
_DEVICE = """
    INSERT INTO devices (user, client, epoch, expiry, expires_at, created_at, position, cursor, inflight, will, will_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_HELD = ("store", "sync", "devices", "retained", "participants", "tokens", "settings", "rows", "conversations", "users")
"""A database without any of these holds nothing that anybody would miss."""


class SqliteTarget:
    """A `storage.transfer.Target`. ``path``: where there is no database yet, or an empty one; with ``aside`` any, which then
    gets that name."""

    def __init__(self, path: str | Path, aside: Path | None = None) -> None:
        self._aside = aside
        self._path = Path(path).expanduser().resolve()
        self._new = self._path.with_name(self._path.name + ".import")
        self._lock = ServingLock(self._path)
        self._connection: sqlite3.Connection | None = None
        self._last_id = 0
        self._now = time.time_ns() // 1_000_000

    async def __aenter__(self) -> Self:
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise StorageUnusable(f"{self._path.parent} cannot be created: {error.strerror}") from error
        self._lock.take()
        try:
            self._refuse_what_holds_something()
            self._begin()
        except OSError as error:
            self._end()
            raise StorageUnusable(f"{self._new} cannot be made: {error.strerror}") from error
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end()

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for suffix in ("", "-journal"):
            self._new.with_name(self._new.name + suffix).unlink(missing_ok=True)
        self._lock.release()

    def _refuse_what_holds_something(self) -> None:
        if not is_there(self._path):
            log = self._path.with_name(self._path.name + "-wal")
            if log.exists() and log.stat().st_size:
                raise StorageUnusable(f"{self._path} is missing, and its log {log.name} is there: move it away first")
            return
        refuse_empty(self._path)
        try:
            connection = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, isolation_level=None)
            try:
                check_version(connection, str(self._path))
                there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master").fetchall()}
                full = [t for t in _HELD if t in there and connection.execute(f"SELECT 1 FROM {t} LIMIT 1").fetchall()]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise translate(error, str(self._path)) from error
        if full and self._aside is None:
            raise StorageUnusable(
                f"{self._path} is not empty (it has {', '.join(full)}): import into an empty database, such as another --data"
            )

    def _begin(self) -> None:
        for suffix in ("", "-journal"):
            self._new.with_name(self._new.name + suffix).unlink(missing_ok=True)
        make_file(self._new)
        self._connection = connection = sqlite3.connect(self._new, isolation_level=None)
        for pragma in ("synchronous=OFF", "journal_mode=OFF", "cache_size=-65536", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        migrate(connection, str(self._new))
        connection.execute("BEGIN")

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None, "it is filled within its context"
        return self._connection

    async def write(self, records: Sequence[Record]) -> None:
        """See `storage.transfer.Target`."""
        try:
            for kind, some in groupby(records, lambda record: record[0]):
                self._write(kind, [record[1:] for record in some])
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise StorageUnusable(f"{self._path} cannot be filled: {error}") from error

    def _write(self, kind: str, rows: list[tuple[Any, ...]]) -> None:
        connection = self._open
        special: dict[str, Callable[[list[tuple[Any, ...]]], None]] = {
            "device": self._devices,
            "inbox": lambda rows: self._timelines("users", "key", remove_through, [(*row, 0) for row in rows]),
            "conversation": lambda rows: self._timelines("conversations", "topic", _remove_messages, rows),
            "id": lambda rows: self._note(row[1] for row in rows),
        }
        if kind in special:
            special[kind](rows)
            return
        if kind == "entry":
            rows = list(_in_runs(rows))
        elif kind in ("message", "retained"):
            self._note(row[2] for row in rows)
        connection.executemany(_ROWS[kind], rows)

    def _note(self, ids: Iterable[int]) -> None:
        self._last_id = max(self._last_id, *ids, 0)

    def _timelines(self, table: str, name: str, remove: Remove, rows: list[tuple[Any, ...]]) -> None:
        connection = self._open
        for timeline, floor, floor_time in rows:
            found = connection.execute(f"SELECT id FROM {table} WHERE {name} = ?", (timeline,)).fetchall()
            if found:  # retention went on while it was exported
                connection.execute(f"UPDATE {table} SET floor = ? WHERE id = ?", (floor, found[0][0]))
                remove(connection, found[0][0], floor)
            else:
                connection.execute(f"INSERT INTO {table} ({name}, floor) VALUES (?, ?)", (timeline, floor))
            if table == "conversations":
                connection.execute("UPDATE conversations SET floor_time = ? WHERE topic = ?", (floor_time, timeline))

    def _devices(self, rows: list[tuple[Any, ...]]) -> None:
        connection = self._open
        for row in rows:
            user, client, epoch, expiry, expires_at, created_at, offset, cursor, inflight, filters, received, *will = row
            if not client:  # a shared subscription: it gives out again what is not done
                cursor, inflight = offset, []
            else:
                epoch = marked(epoch, self._now)
            packed = pack_inflight(Inflight(p, seq, InflightState(state), timeline) for p, seq, state, timeline in inflight)
            values = (user, client, epoch, expiry, expires_at, created_at, offset, cursor, packed, *will)
            number = connection.execute(_DEVICE, values).lastrowid or 0
            connection.executemany("INSERT INTO subscriptions VALUES (?, ?, ?, ?, ?)", [(number, *one) for one in filters])
            connection.execute("INSERT INTO received SELECT ? << 16 | value FROM json_each(?)", (number, json.dumps(received)))

    async def finish(self) -> None:
        """See `storage.transfer.Target`."""
        connection = self._open
        try:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'last_id'", (self._last_id,))
            connection.execute("UPDATE meta SET value = (SELECT ifnull(max(revision), 0) FROM rows) WHERE key = 'revision'")
            connection.execute("UPDATE meta SET value = ? WHERE key = 'restored'", (self._now,))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, str(self._new)) from error
        connection.close()
        self._connection = None
        swap_in(self._new, self._path, self._aside)


def _remove_messages(connection: sqlite3.Connection, conversation: int, floor: int) -> None:
    connection.execute("DELETE FROM store WHERE conversation = ? AND seq <= ?", (conversation, floor))


def _in_runs(entries: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows of (user, sequence, message id, target, count, run)."""
    at = 0
    while at < len(entries):
        user, first, _, target, *_ = entries[at]
        ids = [entries[at][2]]
        while not target and len(ids) < LONGEST and at + len(ids) < len(entries):
            whose, seq, id, for_one, *_ = entries[at + len(ids)]
            if (whose, seq) != (user, first + len(ids)) or for_one or id <= ids[-1]:  # of several nodes' ids some do not rise
                break
            ids.append(id)
        at += len(ids)
        yield (user, first + len(ids) - 1, ids[-1], target, len(ids), run_of(ids) if len(ids) > 1 else None)
