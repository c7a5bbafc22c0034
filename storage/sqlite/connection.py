"""Connections to one database file, and what SQLite's errors mean to the broker."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from storage.errors import DiskFull, StorageError, StorageUnavailable, StorageUnusable

WRITER_CACHE_KIB = 24 << 10
READER_CACHE_KIB = 4 << 10
CHECKPOINT_BACKSTOP = 32_768
"""Pages in the write-ahead log at which a commit checkpoints it itself, should the checkpointer be stuck."""
WAL_KEPT_BYTES = 64 << 20
"""The log is overwritten rather than truncated (that makes fsync cheaper), down to this size after a burst."""

_AWAY = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_NOMEM: "could not be written: out of memory",
    sqlite3.SQLITE_READONLY: "is read-only, or its file system is: have it writable again",
    sqlite3.SQLITE_IOERR: "could not be read or written: dmesg says what is wrong with the disk",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "is locked by another process",
}
_WRONG = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup, or save what can be read with sqlite3's .recover",
}
REOPEN = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""After these a connection is not used again."""
MESSAGE_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""What SQLite and its driver raise for values that can never be stored."""


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's error code without its extension; 0 where the driver itself raised the error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def translate(error: sqlite3.Error, path: str) -> StorageError:
    """The same error by who must act."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{path} could not be written, as its disk is full: make room ({error})")
    if code in _AWAY:
        return StorageUnavailable(f"{path} {_AWAY[code]} ({error})")
    return StorageUnusable(f"{path} {_WRONG.get(code, 'failed')} ({error})")


def connect_writer(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """The one connection that writes: write-ahead log, an fsync before a commit returns."""
    connection = _connect(path, "rw", busy_timeout, statements=512)
    try:
        ((mode,),) = connection.execute("PRAGMA journal_mode=WAL").fetchall()
        if mode != "wal":
            raise StorageUnusable(f"{path} cannot have a write-ahead log here ({mode}): use a local file system")
        for pragma in (
            "synchronous=FULL",
            "fullfsync=ON",
            "secure_delete=ON",  # what was recalled, pruned or replaced is not to be found in the file
            "temp_store=MEMORY",
            f"cache_size=-{WRITER_CACHE_KIB}",
            f"journal_size_limit={WAL_KEPT_BYTES}",
            f"wal_autocheckpoint={CHECKPOINT_BACKSTOP}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_checkpointer(path: Path) -> sqlite3.Connection:
    """A connection that only moves pages from the log to the database."""
    connection = _connect(path, "rw", 0, statements=8)
    connection.execute("PRAGMA fullfsync=ON").fetchall()
    connection.execute("PRAGMA synchronous=FULL").fetchall()
    return connection


def connect_reader(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """A connection that cannot write, also beside a writer in another process.

    Where the directory is read-only and no log is left, the file is read as it is.
    """
    try:
        connection = _connect(path, "ro", busy_timeout, statements=64)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as error:
        log = path.with_name(path.name + "-wal")
        if primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or not path.exists() or log.exists():
            raise
        connection = _connect(path, "ro&immutable=1", busy_timeout, statements=64)
    connection.execute("PRAGMA query_only=ON").fetchall()
    connection.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}").fetchall()
    connection.execute("PRAGMA temp_store=MEMORY").fetchall()
    return connection


def _connect(path: Path, mode: str, busy_timeout: float, statements: int) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=statements,
    )
