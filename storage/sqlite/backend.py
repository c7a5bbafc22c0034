"""`SqliteStorage`: the storage interface over one thread that writes and a few that read."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from storage.errors import NoDatabase, StorageError, StorageUnusable
from storage.interface import Space
from storage.private import make_file, make_folder
from storage.records import Operation
from storage.sqlite import queries, retention
from storage.sqlite.checkpoint import Checkpointer
from storage.sqlite.connection import connect_writer, translate
from storage.sqlite.database_file import is_there, refuse_empty, refuse_unfit
from storage.sqlite.free_space import FreeSpace
from storage.sqlite.reading import Reading
from storage.sqlite.schema import migrate
from storage.sqlite.serving_lock import ServingLock
from storage.sqlite.structure import PATIENCE, StructureCheck
from storage.sqlite.threads import Worker
from storage.sqlite.writer import GroupWriter

log = logging.getLogger(__name__)

_Prune = Callable[[sqlite3.Connection, str, int, int], retention.Pruned]


class SqliteStorage(Reading):
    """All of `storage.interface`, in one SQLite file.

    ``low_water_bytes``: with less space than this on its disk, commits of messages raise `StorageUnavailable`.
    ``busy_timeout``: seconds that a commit waits for another program that has locked the file.
    ``patience``: seconds that `open` waits for the look at a file that was not closed cleanly (`storage.sqlite.structure`).
    ``read_only`` opens beside a running broker, takes no lock, and never writes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        read_only: bool = False,
        low_water_bytes: int = 64 << 20,
        busy_timeout: float = 1.0,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(Path(path).expanduser(), busy_timeout, read_only=read_only)
        self._space = FreeSpace(self._path, low_water_bytes)
        self._lock = ServingLock(self._path)
        self._write_worker: Worker | None = None
        self._writer: GroupWriter | None = None
        self._checkpointer: Checkpointer | None = None
        self._patience = patience
        self._check: StructureCheck | None = None

    def space(self) -> Space | None:
        """See `storage.interface.HasDisk`."""
        return self._space.now()

    # --- opening and closing ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `storage.interface.Storage`. After an unclean stop the structure of the file is looked at, for a moment before it
        is open, and then behind it: damage that is found later has commits raise `StorageUnusable`."""
        try:
            if self._read_only and not is_there(self._path):
                raise NoDatabase(f"{self._path}: there is no database")
            if not self._read_only:
                self._write_worker = Worker("tideline-write")
                self._writer = await self._write_worker.run(self._open)
                self._checkpointer = Checkpointer(self._path, self._write_worker, self._end_checkpoint)
                self._write_worker.post(self._checkpointer.wipe)  # a crash may have left in the log what is gone
            await self._start_reading()
        except BaseException:
            await self.close()
            raise

    def _open(self) -> GroupWriter:
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise StorageUnusable(f"{self._path.parent} cannot be created: {error.strerror}") from error
        self._lock.take()
        try:
            self._create()
            connection = connect_writer(self._path, busy_timeout=self._busy_timeout)
            try:
                self._prepare(connection)
                writer = GroupWriter(self._path, connection, self._space, self._busy_timeout)
                writer.last_id = queries.last_id(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise _unusable(error, self._path) from error
        except OSError as error:
            raise StorageUnusable(f"{self._path} cannot be made: {error.strerror}") from error
        return writer

    def _create(self) -> None:
        """Make the database where there is none: whole, under another name first, so that an empty file is none of ours."""
        path = self._path.resolve()
        wal, new = path.with_name(path.name + "-wal"), path.with_name(path.name + ".new")
        if is_there(path):
            refuse_unfit(path)
            refuse_empty(path)
            return
        if wal.exists() and wal.stat().st_size:
            raise StorageUnusable(
                f"{path} is missing, and its log {wal.name} is there: restore both from a backup, "
                f"or remove {wal.name} to begin anew"
            )
        new.unlink(missing_ok=True)
        make_file(new)
        connection = connect_writer(new, busy_timeout=self._busy_timeout)
        try:
            migrate(connection, str(path))
        finally:
            connection.close()
        new.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        log.info("%s: a new database", path)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Migrate; check after an unclean stop; note that from here on the stop is unclean."""
        migrate(connection, str(self._path))
        ((clean,),) = connection.execute("SELECT value FROM meta WHERE key = 'clean'").fetchall()
        if not clean:
            log.info("%s: was not closed cleanly, checking its structure", self._path)
            self._check = StructureCheck(self._path, self._busy_timeout)
            self._check.wait(self._patience)
            self._check.refuse_damage()
        connection.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")

    async def close(self) -> None:
        """See `storage.interface.Storage`."""
        if self._checkpointer is not None:
            await self._checkpointer.stop()
            self._checkpointer = None
        await self._stop_reading()
        if self._check is not None:
            await self._check.stop()
        if self._write_worker is not None:
            await self._write_worker.run(self._close)
            await self._write_worker.stop()
            self._write_worker = None
        self._check = None

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if self._check is None or self._check.passed:
                    writer.connection.execute("UPDATE meta SET value = 1 WHERE key = 'clean'")
            except (sqlite3.Error, StorageError) as error:
                log.warning("%s: could not be closed cleanly, and will be checked when it is opened: %s", self._path, error)
            writer.close()
        self._lock.release()

    @property
    def cluster(self) -> None:
        """None: one node at a time serves a file."""
        return None

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        return self._writer.last_id if self._writer is not None else await super().last_id()

    # --- writing ---------------------------------------------------------------------------------------------------

    async def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer`. Raises `StorageUnusable` where the file turns out to be damaged."""
        worker, writer = self._writing()
        try:
            await worker.run(partial(writer.serve, group, self._check, self._checkpointer))
        except asyncio.CancelledError:
            worker.post(partial(writer.abandoned, group))
            raise

    async def probe(self) -> None:
        """See `storage.interface.Probed`."""
        worker, writer = self._writing()
        await worker.run(writer.probe)

    def _writing(self) -> tuple[Worker, GroupWriter]:
        if self._write_worker is None or self._writer is None:
            raise StorageUnusable(f"{self._path} is opened read-only" if self._read_only else f"{self._path} is not open")
        return self._write_worker, self._writer

    def _end_checkpoint(self) -> None:
        """On the writing thread, between two groups."""
        writer, checkpointer = self._writer, self._checkpointer
        emptied = False
        try:
            if writer is not None:
                ((_, pages, moved),) = writer.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if moved == pages:  # the log begins anew, unless somebody reads it
                    writer.work = writer.large = 0
                emptied = checkpointer is not None and checkpointer.wipes and writer.empty_log()
        except (sqlite3.Error, StorageError) as error:
            log.warning("%s: checkpoint failed, the log grows until one succeeds: %s", self._path, error)
        if checkpointer is not None:
            checkpointer.finished(emptied)

    async def prune_conversation(self, topic: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`. Commits go on between its steps."""
        return await self._prune(retention.prune_conversation, topic, before_seq, limit)

    async def prune_inbox(self, user: str, before_seq: int, limit: int = 1000, now: int = 0) -> int:
        """See `storage.interface.Pruner`. Commits go on between its steps."""
        return await self._prune(retention.prune_inbox, user, before_seq, limit)

    async def _prune(self, prune: _Prune, name: str, before: int, limit: int) -> int:
        worker, _ = self._writing()
        removed, more = 0, True
        while more and removed < limit:
            step = min(retention.STEP, limit - removed)
            count, _, more = await worker.run(partial(self._prune_step, prune, name, before, step))
            removed += count
        return removed

    def _prune_step(self, prune: _Prune, name: str, before: int, limit: int) -> retention.Pruned:
        writer, checkpointer = self._writer, self._checkpointer
        assert writer is not None
        try:
            pruned = prune(writer.connection, name, before, limit)
        except sqlite3.Error as error:
            if writer.connection.in_transaction:
                writer.connection.execute("ROLLBACK")
            raise translate(error, str(self._path)) from error
        writer.work += pruned.entries
        writer.large += pruned.size
        if checkpointer is not None:
            writer.pace(checkpointer)
        return pruned


def _unusable(error: sqlite3.Error, path: Path) -> StorageUnusable:
    """An error while opening; a person has to look at it, whatever it is."""
    return StorageUnusable(str(translate(error, str(path))))
