"""That the files which are open are those that their paths name.

A file that is removed, or that another one took the place of, is still written by who has it open, and nothing fails; but
nobody will find what is written there once it is closed. So it is not acknowledged.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from storage.errors import StorageUnavailable

_PAUSE = 0.25
"""Seconds from one look at the paths to the next."""


class Unmoved:
    """The database's file and its write-ahead log, as the writer has them open."""

    def __init__(self, database: Path) -> None:
        self._database = database = database.resolve()
        self._log = database.with_name(database.name + "-wal")
        self._open: dict[Path, os.stat_result] = {}
        self._look_at = 0.0

    def opened(self) -> None:
        """The database is about to be opened, or was just now. Raises `StorageUnavailable` where it was open before and another
        one is there now: what is in memory is of the first one. The log may be a new one, and so may be the number of a disk
        that was mounted again."""
        before = self._open.pop(self._database, None)
        self._open.clear()
        found = _look(self._database)
        if before is not None:
            self._open[self._database] = before
            if found is not None and found.st_ino != before.st_ino:
                raise self._moved(self._database)
        if found is not None:
            self._open[self._database] = found

    def check(self) -> None:
        """Raises `StorageUnavailable` where one of them is not there any more, or is another one."""
        now = time.monotonic()
        if now < self._look_at:
            return
        for path in (self._database, self._log):
            found, known = _look(path), self._open.get(path)
            if known is None:
                if found is not None:  # the log, which the first one to read or write makes
                    self._open[path] = found
            elif found is None or not os.path.samestat(found, known):
                raise self._moved(path)
        self._look_at = now + _PAUSE

    def _moved(self, path: Path) -> StorageUnavailable:
        return StorageUnavailable(
            f"{path} was removed or replaced while the broker has it open: put the very file back, or save what is open and "
            "restart (docs/operate.md)"
        )


def _look(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None
