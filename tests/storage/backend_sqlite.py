"""`sqlite:///`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from storage.interface import Storage
from storage.records import Message
from storage.sqlite import SqliteStorage
from tests.storage.backends import Backend


class SqliteBackend(Backend):
    name = "sqlite"

    @property
    def path(self) -> str:
        return str(self.directory / "data" / "tideline.db")

    async def open(self) -> Storage:
        storage = SqliteStorage(self.path, busy_timeout=0.02)
        await storage.open()
        return storage

    def away(self, storage: Storage) -> AbstractAsyncContextManager[None]:
        """Another program holds the write lock."""

        @asynccontextmanager
        async def locked() -> AsyncIterator[None]:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")
                connection.close()

        return locked()

    def lose_answer(self, storage: Storage) -> None:
        """The commit is done, then the disk reports an error."""
        assert isinstance(storage, SqliteStorage)
        writer = storage._writer
        assert writer is not None

        def commit_whole(group: object) -> None:
            del writer.commit_whole
            writer.commit_whole(group)  # type: ignore[arg-type]
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        writer.commit_whole = commit_whole  # type: ignore[method-assign]

    def lose_nothing(self, storage: Storage) -> None:
        assert isinstance(storage, SqliteStorage)
        vars(storage._writer).pop("commit_whole", None)

    def impossible(self, message: Message) -> Message | None:
        """A topic that is no Unicode text."""
        message.topic = "\ud800"
        return message


BACKEND = SqliteBackend
