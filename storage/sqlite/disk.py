"""What the database file's surroundings say: the lock of the serving broker, and the space that is left."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from storage.errors import StorageInUse, StorageUnavailable, StorageUnusable
from storage.private import make_file


def refuse_empty(database: Path) -> None:
    """Raises `StorageUnusable` for a file of no bytes, which SQLite would take for a new database: ours are never so short."""
    if database.is_file() and not database.stat().st_size:
        raise StorageUnusable(
            f"{database} is empty (0 bytes), which no database of Tideline's ever is: restore it from a backup, "
            "or remove the file to begin anew"
        )


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
            raise StorageUnusable(f"{self._path} cannot be written: {error.strerror}") from error
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


class FreeSpace:
    """Refuses what would take the disk below its low-water mark.

    What is written goes into the log, and from there into the database: it takes its room twice. What stands in the log
    already, and has no place in the database yet, will take its room as surely as if it had it. The system is asked before
    each group: a second of writing may be more than the whole mark.
    """

    def __init__(self, database: Path, low_water_bytes: int) -> None:
        self._database = database
        self._log = database.with_name(database.name + "-wal")
        self._low_water = low_water_bytes

    def check(self, size: int, inside: Callable[[], tuple[int, int]]) -> None:
        """Raises `StorageUnavailable` where ``size`` more bytes are too many.

        ``inside`` tells the database's whole size, what is only in the log included, and how much of it is free to be used
        again. It is asked only where the space gets tight.
        """
        directory = self._database.parent
        try:
            state = os.statvfs(directory)
            free = state.f_bavail * state.f_frsize
            log = self._log.stat().st_size if self._log.exists() else 0
            if free - log - 2 * size >= self._low_water:
                return
            whole, reusable = inside()
            owed = max(0, whole - self._database.stat().st_size)
        except OSError as error:
            raise StorageUnavailable(f"{directory} cannot be asked for its free space: {error.strerror}") from error
        # What is free inside the database serves it and not its log, which a part of the mark is kept for.
        if free - owed - 2 * size + reusable < self._low_water or free - owed - size < self._low_water // 4:
            promised = f", of which {owed >> 20} MiB are promised to its log" if owed >> 20 else ""
            raise StorageUnavailable(f"{directory} has {free >> 20} MiB left{promised}, less than {self._low_water >> 20} MiB")
