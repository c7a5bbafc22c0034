"""The right to write an embedded index: a lock on ``<file>.lock``, which the kernel gives back whatever ends the process."""

from __future__ import annotations

import time
from pathlib import Path

from plugins.search.engine import SearchUnavailable
from storage.file_lock import FileLock, LockTaken


class BeingWritten(SearchUnavailable):
    """Another process writes the index, and goes on."""


class WriteLock:
    """The right to write an index. A successor waits a moment for a process that is about to end."""

    def __init__(self, index: Path, *, patience: float) -> None:
        self._lock = FileLock(index.with_name(index.name + ".lock"))
        self._patience = patience

    def take(self) -> None:
        """Blocks for up to ``patience`` seconds. Raises `BeingWritten` where somebody else goes on writing."""
        deadline = time.monotonic() + self._patience
        while not self._lock.held:
            try:
                self._lock.take()
            except LockTaken as owner:
                if time.monotonic() >= deadline:
                    raise BeingWritten(f"the search index is being written by process {owner}") from owner
                time.sleep(0.02)

    def release(self) -> None:
        self._lock.release()
