"""Moving the write-ahead log into the database without holding up commits.

A checkpoint on a thread and connection of its own runs beside the writer and copies nearly all pages. What was written
meanwhile is left; the writer copies that between two groups, after which the log starts again from its beginning.

The log is overwritten from its beginning, not cut. So after content was taken out of messages it is cut once, or that content
would be in it for as long as nothing takes its place.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from storage.sqlite.connection import connect_checkpointer
from storage.sqlite.threads import Worker

log = logging.getLogger(__name__)

PAGES = 4000
"""How long the log may become, in pages, before it is moved: 16 MiB."""
_PAGE = 4096
"""Bytes."""
FEW = 500
"""Pages that are left for the writer to move on its own thread."""
_MOVE = "PRAGMA wal_checkpoint(PASSIVE)"
_SOON, _LATE = 0.05, 1.0
"""Seconds until the log is tried to be cut again, while somebody reads what is in it."""


class Checkpointer:
    """Started by the writer when it has written enough; asks the writer for the end of it."""

    def __init__(self, path: Path, writer: Worker, finish: Callable[[], None]) -> None:
        self._path = path
        self._writer = writer
        self._finish = finish
        self._worker = Worker("tideline-checkpoint")
        self._connection: sqlite3.Connection | None = None
        self._running = False
        self._pages_per_row = 1.0
        self._behind = 0.0
        """Pages that the writer wrote since the checkpoint began, as it counts them. The writer's to set."""
        self._pause = _SOON
        self._stopping = threading.Event()
        self.wipes = False
        """The log is to be cut."""

    def note(self, work: int, large: int) -> bool:
        """Called by the writer after a commit; whether what was written since the last checkpoint was enough to start one:
        ``work`` rows, and ``large`` bytes of values that fill pages of their own."""
        pages = work * self._pages_per_row + large / _PAGE
        if self._running or pages < PAGES:
            self._behind = pages
            return False
        self._running, self._behind = True, 0.0
        self._worker.post(lambda: self._run(work, large))
        return True

    def wipe(self) -> None:
        """Called by the writer: have the log cut soon, however little is in it."""
        self.wipes = True
        if not self._running:
            self._running = True
            self._worker.post(lambda: self._run(0, 0))

    def finished(self, emptied: bool) -> None:
        """Called by the writer at the end of its part; ``emptied``: the log was cut."""
        self._running = False
        if emptied:
            self.wipes, self._pause = False, _SOON
        elif self.wipes and not self._stopping.is_set():
            self._running = True
            self._worker.post(self._again)

    def _again(self) -> None:
        self._stopping.wait(self._pause)
        self._pause = min(_LATE, 2 * self._pause)
        self._run(0, 0)

    async def stop(self) -> None:
        """End the thread and close its connection."""
        self._stopping.set()
        await self._worker.stop()
        if self._connection is not None:
            self._connection.close()

    def _run(self, work: int, large: int) -> None:
        try:
            if self._connection is None:
                self._connection = connect_checkpointer(self._path)
            before = self._behind
            ((_, pages, _),) = self._connection.execute(_MOVE).fetchall()
            if pages > 0 and work:
                self._pages_per_row = min(4.0, max(0.05, (pages - large / _PAGE) / work))
            moved, ahead = float(pages), self._behind - before
            # Where the writer writes as fast as its pages are moved, the log would only grow.
            while FEW < ahead <= moved / 2:
                moved, before = ahead, self._behind
                self._connection.execute(_MOVE).fetchall()
                ahead = self._behind - before
        except sqlite3.Error as error:
            log.warning("%s: checkpoint failed, the log grows until one succeeds: %s", self._path, error)
        self._writer.post(self._finish)
