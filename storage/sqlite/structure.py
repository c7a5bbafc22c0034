"""The structure of a file that was not closed cleanly, looked at on a thread of its own.

A process that is killed leaves the file whole, and so does a machine that loses its power while its disk keeps its word. The
look is for disks that did not. It goes through all that is stored, seconds for each gigabyte, so a start waits for it only for
a moment; what it finds after that has commits fail, so that nothing more is acknowledged. While it lasts, the log is not
emptied.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import threading
from pathlib import Path

from storage.errors import StorageUnavailable, StorageUnusable
from storage.sqlite import queries
from storage.sqlite.connection import connect_reader, translate

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds for which a start waits: a file of some hundred megabytes is looked through by then."""
_NICE = 10
"""Commits go first."""


class StructureCheck:
    """Begins when it is made. `wait` for it, `refuse_damage`, and `stop` it, in this order."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._damage = ""
        self._connection: sqlite3.Connection | None = None
        self._closing = threading.Lock()
        """Held to interrupt the connection, and to give it up: SQLite must not be told to interrupt what it has freed."""
        self._stopping = False
        self._ended = threading.Event()
        self.passed = False
        """It has come to its end, and found nothing."""
        threading.Thread(target=self._run, name="tideline-check", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until it has ended, or so long."""
        self._ended.wait(seconds)

    def refuse_damage(self) -> None:
        """Raises `StorageUnusable` where damage was found by now."""
        if self._damage:
            raise StorageUnusable(self._damage)

    async def stop(self) -> None:
        """End it, wherever it is."""
        self._stopping = True
        while not self._ended.is_set():
            with self._closing:
                if self._connection is not None:
                    self._connection.interrupt()
            await asyncio.to_thread(self._ended.wait, 0.05)

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        damage = ""
        try:
            damage = self._look()
            self.passed = not damage and not self._stopping
        except sqlite3.Error as error:
            why = translate(error, str(self._path))
            if isinstance(why, StorageUnavailable):  # which says nothing of the file
                log.warning("its structure could not be looked at, which begins anew at the next start: %s", why)
            else:
                damage = str(why)
        finally:
            if self._stopping:  # which may be why it ended as it did
                log.info("%s: the look at its structure was ended, and begins anew at the next start", self._path)
            elif damage:
                self._damage = damage
                log.error("%s", damage)
            elif self.passed:
                log.info("%s: its structure is whole", self._path)
            self._ended.set()

    def _look(self) -> str:
        self._connection = connection = connect_reader(self._path, self._busy_timeout)
        try:
            found = queries.problems(connection, full=False)
        finally:
            with self._closing:
                self._connection = None
            connection.close()
        if not found:
            return ""
        return f"{self._path} is damaged ({found[0]}): restore it from a backup, or save what can be read with .recover"
