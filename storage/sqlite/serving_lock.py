"""That one broker serves a database's file: a lock that ends with the process that has it."""

from __future__ import annotations

from pathlib import Path

from storage.errors import StorageInUse, StorageUnusable
from storage.file_lock import FileLock, LockTaken, owner_of
from storage.sqlite.database_file import hint


class ServingLock:
    """The right to serve a database: a lock on ``<file>.lock``.

    A file of its own, because closing any descriptor of the database file would drop SQLite's own locks on it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._lock = FileLock(_beside(database))

    def take(self) -> None:
        """Raises `StorageInUse` where somebody has it."""
        try:
            self._lock.take()
        except LockTaken as owner:
            raise StorageInUse(f"{self._database} is served by another broker (process {owner})") from owner
        except OSError as error:
            path = self._lock.path
            raise StorageUnusable(f"{path} cannot be written: {error.strerror}{hint(error, path, self._database)}") from error

    def release(self) -> None:
        self._lock.release()


def served_by(database: Path) -> str:
    """The process that serves a database, or "unknown"; empty for none."""
    return owner_of(_beside(database))


def _beside(database: Path) -> Path:
    return database.with_name(database.name + ".lock")
