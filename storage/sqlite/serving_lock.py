"""That one broker serves a database's file: a lock that ends with the process that has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from storage.errors import StorageInUse, StorageUnusable
from storage.private import make_file
from storage.sqlite.database_file import hint


class ServingLock:
    """The right to serve a database: an advisory lock on ``<file>.lock``, which the kernel gives back even on SIGKILL.

    A file of its own, because closing any descriptor of the database file would drop SQLite's own locks on it.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._database = database
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raises `StorageInUse` where somebody has it."""
        try:
            make_file(self._path)
            file = open(self._path, "a+", encoding="ascii")  # noqa: SIM115 - held until `release`
        except OSError as error:
            raise StorageUnusable(
                f"{self._path} cannot be written: {error.strerror}{hint(error, self._path, self._database)}"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            file.close()
            raise StorageInUse(f"{self._database} is served by another broker (process {owner})") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give it back; the file stays, since removing it would let two brokers hold two locks."""
        if self._file is not None:
            self._file.close()
            self._file = None
