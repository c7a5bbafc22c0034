"""The embedded engine: SQLite's FTS5 in a file of its own, nothing to install.

WAL lets one write while others read. A batch and the indexer's positions are one transaction, so a crash leaves neither hole
nor double.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from plugins.search.engine import SearchUnavailable, SearchUnusable
from plugins.search.file_engine import SECONDS, FileEngine, FileSearcher
from plugins.search.fts5_index import Generation, connect, drop_others, live_generation, new_generation, set_merging
from plugins.search.fts5_search import Reader
from storage.private import make_folder

log = logging.getLogger("tideline.search")

T = TypeVar("T")


def _require_fts5() -> None:
    with sqlite3.connect(":memory:") as db:
        try:
            db.execute("CREATE VIRTUAL TABLE probe USING fts5(body, content='', tokenize='ascii', prefix='1')")
        except sqlite3.Error as error:
            text = f"sqlite {sqlite3.sqlite_version} of this python has no fts5 ({error})"
            raise SearchUnusable(f"{text}: use a python that has it, or engine: meilisearch") from error
    db.close()


class Fts5Searcher(FileSearcher[Reader]):
    """The searching half. A query that runs longer than ``seconds`` is broken off."""

    def __init__(self, path: str | Path, *, seconds: float = SECONDS) -> None:
        super().__init__(Path(path))
        self._seconds = seconds
        self._readers: list[Reader] = []

    def _make(self) -> None:
        self._connected().close()

    def _connected(self) -> sqlite3.Connection:
        """To the file, made where there is none. One that is no database, or a broken one, is set aside and begun anew."""
        _require_fts5()
        try:
            make_folder(self._path.parent)
            try:
                return connect(self._path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                aside = self._set_aside()
                log.warning("search index %s cannot be read (%s): moved to %s, a new one begins", self._path, error, aside.name)
                return connect(self._path)
        except (sqlite3.Error, OSError) as error:
            raise SearchUnusable(f"search index {self._path}: {getattr(error, 'strerror', None) or error}") from error

    def _set_aside(self) -> Path:
        aside = self._path.with_name(self._path.name + ".broken")
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")
        os.replace(self._path, aside)
        return aside

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        try:
            reader = self._readers.pop()
        except IndexError:  # not asked before: without the interpreter's lock another thread may take the last one meanwhile
            try:
                reader = Reader(str(self._path), self._seconds)
            except sqlite3.Error as error:  # as where its disk is full, and its log cannot be mapped
                raise SearchUnavailable(f"search index: {error}") from error
        try:
            yield reader
        finally:
            self._readers.append(reader)

    def _let_go(self) -> None:
        while self._readers:
            self._readers.pop().close()


class Fts5Engine(FileEngine[Reader, Generation], Fts5Searcher):
    """The engine over a file."""

    deleted_at_once = 500
    drop_errors = sqlite3.OperationalError

    def __init__(self, path: str | Path, *, seconds: float = SECONDS, patience: float = 10.0) -> None:
        super().__init__(Path(path), patience)
        self._seconds = seconds
        self._db: sqlite3.Connection | None = None

    def _opened(self) -> Generation:
        db = self._connected()
        try:
            self._lock.take()
            live = live_generation(db)
            drop_others(db, live)
            set_merging(db, live)
            generation = Generation(db, live)
        except BaseException:
            db.close()
            self._lock.release()
            raise
        self._db = db
        return generation

    def _let_go(self) -> None:
        super()._let_go()
        db, self._db = self._db, None
        if db is not None:
            db.close()

    async def purge(self) -> bool:
        """Merge the segments that hold what was deleted, some hundred pages a transaction, and cut the log at the end."""
        return await self._write(lambda: self._generation().purge())

    def _new_generation(self) -> Generation:
        db = self._generation().db
        db.execute("BEGIN IMMEDIATE")
        try:
            generation = Generation(db, new_generation(db))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return generation

    def _make_live(self, generation: Generation) -> None:
        generation.db.execute("UPDATE meta SET value = ? WHERE key = 'live'", (generation.number,))

    def _drop_others(self, live: Generation) -> None:
        drop_others(live.db, live.number)

    def _explained(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.OperationalError as error:  # full, locked, read-only: may pass
            raise SearchUnavailable(f"search index: {error}") from error
        except sqlite3.DatabaseError as error:
            text = f"search index: {error}: remove the file and restart, it is made again from the store"
            raise SearchUnusable(text) from error
