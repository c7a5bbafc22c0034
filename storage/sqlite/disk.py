"""What the database file's surroundings say: the lock of the serving broker, and the space that is left."""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import IO

from storage.errors import StorageInUse, StorageUnavailable, StorageUnusable
from storage.interface import Space
from storage.private import make_file

log = logging.getLogger(__name__)


def is_there(database: Path) -> bool:
    """Whether there is such a file. Raises `StorageUnusable` where this user may not know, as its folder is another's."""
    try:
        database.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageUnusable(f"{database} cannot be looked at: {error.strerror}{_hint(error, database)}") from error
    return True


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
            raise StorageUnusable(
                f"{self._path} cannot be written: {error.strerror}{_hint(error, self._path, self._database)}"
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


def _hint(error: OSError, *files: Path) -> str:
    """Whose a file is that was refused, or the folder it would be in, and what to do; empty where it is no other user's."""
    if not isinstance(error, PermissionError):
        return ""
    folder = next((parent for parent in files[0].absolute().parents if _owner(parent) is not None), None)
    for path in (*files, *([folder] if folder else [])):
        owner = _owner(path)
        if owner is not None and owner != os.geteuid():
            whose, me = _user(owner), _user(os.geteuid())
            return f"; {path} belongs to {whose}, and this is {me}: run it as {whose}, or give it to {me} with chown"
    return ""


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


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
        self._told = 0
        """The free space that was warned of last; 0 while there is enough."""

    def now(self) -> Space | None:
        """What is free, as the system tells it."""
        try:
            state = os.statvfs(self._database.parent)
        except OSError:
            return None
        return Space(state.f_bavail * state.f_frsize, self._low_water)

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
            self._warn(Space(free, self._low_water))
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

    def _warn(self, space: Space) -> None:
        """Say that space gets short, and again each time that half of it is gone; and that there is enough again."""
        if not space.low:
            if self._told:
                log.info("%s: there is enough free space again, %d MiB", self._database.parent, space.free >> 20)
            self._told = 0
        elif not self._told or space.free < self._told // 2:
            self._told = max(space.free, 1)
            text = "%s has %d MiB left: with less than %d MiB no message is acknowledged (retention: max_bytes, keep_free)"
            log.warning(text, self._database.parent, space.free >> 20, self._low_water >> 20)
