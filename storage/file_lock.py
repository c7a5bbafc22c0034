"""One process at a time: an advisory lock on a file, which the kernel gives back however its owner ends, also on SIGKILL."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from storage.private import make_file


class LockTaken(Exception):
    """Another process has the lock; the text is its process id, or "unknown"."""


class FileLock:
    """The lock on ``path``, which is made for it. The file stays, since removing it would let two processes hold two locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def take(self) -> None:
        """At once, or not at all. Raises `LockTaken` where another process has it, `OSError` where the file cannot be made."""
        make_file(self.path)
        file = open(self.path, "a+", encoding="ascii")  # noqa: SIM115 - held until `release`
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            file.close()
            raise LockTaken(owner) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def owner_of(path: Path) -> str:
    """The process that has the lock on ``path`` now, or "unknown"; empty for none. Makes nothing, and leaves the file as it is.

    Where nobody has it, it is held for a moment to see that. Raises `OSError` where the file may not be read.
    """
    with suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(20).strip() or "unknown"
    return ""
