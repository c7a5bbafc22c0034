"""A copy of a SQLite file beside the broker that writes it, and the way back into its place."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from storage.errors import NoDatabase, StorageUnusable
from storage.private import make_file, make_folder
from storage.restored import new_epoch
from storage.sqlite import queries
from storage.sqlite.connection import connect_reader, translate
from storage.sqlite.database_file import is_there, refuse_empty
from storage.sqlite.schema import check_version, migrate
from storage.sqlite.serving_lock import ServingLock
from storage.sqlite.swap import swap_in
from storage.transfer import Report, sync_file, sync_folder

_PAGES = 2048
_CHUNK = 1 << 20


class SqliteBackup:
    """A `storage.transfer.Backup` of the file at ``path``."""

    def __init__(self, path: str | Path, busy_timeout: float = 5.0) -> None:
        self.path = self._path = Path(path).expanduser().resolve()
        self._busy_timeout = busy_timeout

    def save(self, file: Path, report: Report) -> None:
        """See `storage.transfer.Backup`. One read transaction, so that no commit meanwhile makes it begin again."""
        if not is_there(self._path):
            raise NoDatabase(f"{self._path}: there is no database")
        refuse_empty(self._path)
        part = file.with_name(file.name + ".part")
        part.unlink(missing_ok=True)
        make_file(part)
        try:
            with closing(connect_reader(self._path, self._busy_timeout)) as source, closing(sqlite3.connect(part)) as copy:
                check_version(source, str(self._path))
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM meta").fetchall()
                source.backup(copy, pages=_PAGES, progress=lambda _, left, total: report(total - left, total))
                copy.execute("PRAGMA journal_mode=DELETE").fetchall()  # one file, without a log beside it
            sync_file(part)
            _write_checksum(part, file)
            part.rename(file)
            sync_folder(file.parent)
        except sqlite3.Error as error:
            raise translate(error, str(self._path)) from error
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                part.with_name(part.name + suffix).unlink(missing_ok=True)

    def restore(self, file: Path, aside: Path, report: Report) -> None:
        """See `storage.transfer.Backup`."""
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise StorageUnusable(f"{self._path.parent} cannot be created: {error.strerror}") from error
        lock = ServingLock(self._path)
        lock.take()
        new = self._path.with_name(self._path.name + ".restore")
        try:
            _remove(new)
            make_file(new)
            _copy_checked(file, new, report)
            _make_another(new, file)
            swap_in(new, self._path, aside)
        except sqlite3.Error as error:
            raise StorageUnusable(f"{file} cannot be restored: {error}") from error
        finally:
            _remove(new)
            lock.release()


def _remove(new: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)


def checksum_file(file: Path) -> Path:
    """Where a backup's checksum is, as `sha256sum -c` takes it."""
    return file.with_name(file.name + ".sha256")


def _write_checksum(part: Path, file: Path) -> None:
    digest = hashlib.sha256()
    with part.open("rb") as read:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
    beside = checksum_file(file)
    make_file(beside)
    beside.write_text(f"{digest.hexdigest()}  {file.name}\n")
    sync_file(beside)


def _copy_checked(file: Path, new: Path, report: Report) -> None:
    """Copy a backup; raises `StorageUnusable` where it is not what was written."""
    digest, size, done = hashlib.sha256(), file.stat().st_size, 0
    with file.open("rb") as read, new.open("wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            write.write(chunk)
            done += len(chunk)
            report(done, size)
    beside = checksum_file(file)
    if not beside.exists():
        raise StorageUnusable(f"{beside} is missing, which says what {file.name} was when it was written")
    if beside.read_text().split()[:1] != [digest.hexdigest()]:
        raise StorageUnusable(f"{file} is damaged: it is not what {beside.name} says that it was")


def _make_another(new: Path, file: Path) -> None:
    """Make the copy another one than what it was of: `storage.restored`."""
    now = time.time_ns() // 1_000_000
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        check_version(connection, str(file))
        migrate(connection, str(file))
        if found := queries.problems(connection, full=False):
            raise StorageUnusable(f"{file} is damaged: {found[0]}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE devices SET epoch = -max(epoch, ?) - 1 WHERE user NOT GLOB 's/*' AND epoch >= 0", (now,))
        connection.execute("UPDATE devices SET cursor = position, inflight = x'' WHERE user GLOB 's/*'")
        for key, value in (("epoch", int(new_epoch().id, 16) >> 1), ("restored", now), ("clean", 1)):
            connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
        connection.execute("COMMIT")
