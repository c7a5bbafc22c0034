"""What the database file's surroundings say: the lock of the serving broker, and the space that is left."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from storage.errors import StorageInUse, StorageUnavailable, StorageUnusable


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
    """Refuses to write when the disk is nearly full; asks the system at most once a second."""

    def __init__(self, directory: Path, low_water_bytes: int) -> None:
        self._directory = directory
        self._low_water = low_water_bytes
        self._asked_at = float("-inf")
        self._free = 0

    def check(self, reusable: int = 0) -> None:
        """Raises `StorageUnavailable` below the low-water mark; ``reusable`` bytes inside the database count as free."""
        now = time.monotonic()
        if now - self._asked_at >= 1:
            try:
                state = os.statvfs(self._directory)
            except OSError as error:
                raise StorageUnavailable(f"{self._directory} cannot be asked for its free space: {error.strerror}") from error
            self._free = state.f_bavail * state.f_frsize
            self._asked_at = now
        if self._free + reusable < self._low_water:
            raise StorageUnavailable(
                f"{self._directory} has {self._free >> 20} MiB left, less than {self._low_water >> 20} MiB"
            )

    @property
    def low(self) -> bool:
        """Whether the last answer was below the mark, not counting what is reusable."""
        return self._free < self._low_water
