"""How much of the disk is left for a database, and that no message is taken that would fill it (docs/laws.md, 6)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import DiskFull, StorageUnavailable
from storage.interface import Space

log = logging.getLogger(__name__)

_FASTEST = 16 << 30
"""Bytes a second: more than all programs together write to one disk."""
_LONGEST = 0.25
"""Seconds from one look at the disk to the next, however much is free."""


class FreeSpace:
    """Refuses what would take the disk below its low-water mark.

    What is written goes into the log, and from there into the database: it takes its room twice. What stands in the log
    already, and has no place in the database yet, will take its room as surely as if it had it. A second of writing may be more
    than the whole mark. So the system is asked again before what was spare can have been written, by whomever: for each group
    where space is tight, four times a second where there is plenty. Asking for each group took 11 microseconds of it, and gave
    the interpreter's lock away three times.
    """

    def __init__(self, database: Path, low_water_bytes: int) -> None:
        self._database = database
        self._log = database.with_name(database.name + "-wal")
        self._low_water = low_water_bytes
        self._warned_at = 0
        """The free space that was warned of last; 0 while there is enough."""
        self._spare = 0
        """Half of what the last look found above the mark, less what we took since."""
        self._look_at = 0.0
        """When others may have written the other half."""

    def now(self) -> Space | None:
        """What is free, as the system tells it."""
        try:
            state = os.statvfs(self._database.parent)
        except OSError:
            return None
        return Space(state.f_bavail * state.f_frsize, self._low_water)

    def check(self, size: int, inside: Callable[[], tuple[int, int]]) -> None:
        """Raises `DiskFull` where ``size`` more bytes are too many, and `StorageUnavailable` where the disk cannot be asked.

        ``inside`` tells the database's whole size, what is only in the log included, and how much of it is free to be used
        again. It is asked only where the space gets tight.
        """
        now = time.monotonic()
        self._spare -= 2 * size
        if self._spare > 0 and now < self._look_at:
            return
        self._spare = 0
        directory = self._database.parent
        try:
            state = os.statvfs(directory)
            free = state.f_bavail * state.f_frsize
            log = self._log.stat().st_size if self._log.exists() else 0
            self._warn(Space(free, self._low_water))
            if free - log - 2 * size >= self._low_water:
                self._spare = (free - log - 2 * size - self._low_water) // 2
                self._look_at = now + min(_LONGEST, self._spare / _FASTEST)
                return
            whole, reusable = inside()
            owed = max(0, whole - self._database.stat().st_size)
        except OSError as error:
            raise StorageUnavailable(f"{directory} cannot be asked for its free space: {error.strerror}") from error
        # What is free inside the database serves it and not its log, which a part of the mark is kept for.
        if free - owed - 2 * size + reusable < self._low_water or free - owed - size < self._low_water // 4:
            promised = f", of which {owed >> 20} MiB are promised to its log" if owed >> 20 else ""
            mark = f"{self._low_water >> 20} MiB (low_water_bytes)"
            raise DiskFull(f"{directory} has {free >> 20} MiB left{promised}, less than {mark}: make room")

    def _warn(self, space: Space) -> None:
        """Say that space gets short, and again each time that half of it is gone; and that there is enough again."""
        if not space.low:
            if self._warned_at:
                log.info("%s: there is enough free space again, %d MiB", self._database.parent, space.free >> 20)
            self._warned_at = 0
        elif not self._warned_at or space.free < self._warned_at // 2:
            self._warned_at = max(space.free, 1)
            text = "%s has %d MiB left: with less than %d MiB no message is acknowledged (retention: max_bytes, keep_free)"
            log.warning(text, self._database.parent, space.free >> 20, self._low_water >> 20)
