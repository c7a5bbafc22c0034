"""Putting another database in the place of one, as a single step. The caller has the `ServingLock`."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from storage.errors import StorageUnavailable
from storage.sqlite.connection import connect_writer, translate
from storage.transfer import sync_file, sync_folder


def swap_in(new: Path, path: Path, aside: Path | None = None) -> None:
    """Make ``new``, a whole database without a log, the one at ``path``; what was there gets the name ``aside`` too.

    A crash leaves the one or the other. Raises `StorageUnavailable` where somebody reads the one that was there: its log must
    be empty, or it would be taken for the new one's.
    """
    sync_file(new)
    if path.exists():
        _empty_log(path)
        if aside is not None:
            os.link(path, aside)
            sync_folder(path.parent)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_folder(path.parent)
    new.replace(path)
    sync_folder(path.parent)


def _empty_log(path: Path) -> None:
    try:
        connection = connect_writer(path, busy_timeout=5.0)
        try:
            ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translate(error, str(path)) from error
    log = path.with_name(path.name + "-wal")
    if busy or (log.exists() and log.stat().st_size):
        raise StorageUnavailable(f"{path} is being read by another process, such as tideline inspect or export: end that first")
