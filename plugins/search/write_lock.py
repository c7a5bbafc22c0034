"""The right to write an embedded index: a lock on ``<file>.lock``, which the kernel gives back whatever ends the process."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from plugins.search.engine import SearchUnavailable
from storage.private import make_file


class BeingWritten(SearchUnavailable):
    """Another process writes the index, and goes on."""


class WriteLock:
    """The right to write an index. A successor waits a moment for a process that is about to end."""

    def __init__(self, index: Path, *, patience: float) -> None:
        self._path = index.with_name(index.name + ".lock")
        self._patience = patience
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Blocks for up to ``patience`` seconds. Raises `BeingWritten` where somebody else goes on writing."""
        if self._file is not None:
            return
        make_file(self._path)
        file = open(self._path, "a+", encoding="ascii")  # noqa: SIM115 - held until `release`
        deadline = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    owner = file.read(20).strip() or "unknown"
                    file.close()
                    raise BeingWritten(f"the search index is being written by process {owner}") from error
            time.sleep(0.02)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give it back; the file stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
