"""The embedded engine: SQLite's FTS5 in a file of its own, nothing to install.

One thread writes, a few read, in one process or in two: WAL lets them run side by side, and the event loop only waits for them.
A batch and the indexer's positions are one transaction, so a crash leaves neither hole nor double. Who writes holds
the `WriteLock`.

Over 300 lines: each method of the engine's two halves, and of a rebuild, hands its work to a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from plugins.search.engine import Document, Positions, Query, Results, SearchError, SearchUnavailable, SearchUnusable
from plugins.search.fts5_index import Generation, connect, drop_others, live_generation, new_generation, set_merging
from plugins.search.fts5_layout import made_by, maker_of
from plugins.search.fts5_search import Reader
from plugins.search.write_lock import WriteLock
from storage.private import make_folder

log = logging.getLogger("tideline.search")

T = TypeVar("T")

_READERS = 4
_WAITING = 64
"""Searches under way or waiting for a thread; more are refused as `SearchUnavailable`."""

_FORGET_AT_ONCE = 500
_DELETE_AT_ONCE = 500


def _require_fts5() -> None:
    with sqlite3.connect(":memory:") as db:
        try:
            db.execute("CREATE VIRTUAL TABLE probe USING fts5(body, content='', tokenize='ascii', prefix='1')")
        except sqlite3.Error as error:
            text = f"sqlite {sqlite3.sqlite_version} of this python has no fts5 ({error})"
            raise SearchUnusable(f"{text}: use a python that has it, or engine: meilisearch") from error
    db.close()


class Fts5Searcher:
    """The searching half, which works beside a writer in this process or another one.

    A query that runs longer than ``seconds`` is broken off.
    """

    def __init__(self, path: str | Path, *, seconds: float = 5.0) -> None:
        self._path = Path(path)
        self._seconds = seconds
        self._searchers: ThreadPoolExecutor | None = None
        self._readers: list[Reader] = []
        self._searching = 0

    async def open(self) -> None:
        """Make the file where there is none. One that is no database, or a broken one, is set aside and begun anew."""
        if self._searchers is None:
            await asyncio.to_thread(self._make)
            self._searchers = ThreadPoolExecutor(_READERS, "search-reader")

    def _make(self) -> None:
        self._connected().close()

    def _connected(self) -> sqlite3.Connection:
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
            raise SearchUnusable(f"search index {self._path}: {error}") from error

    def _set_aside(self) -> Path:
        aside = self._path.with_name(self._path.name + ".broken")
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")
        os.replace(self._path, aside)
        return aside

    async def close(self) -> None:
        """Let searches under way end, and close the file. May be called twice."""
        searchers, self._searchers = self._searchers, None
        if searchers is not None:
            await asyncio.to_thread(searchers.shutdown, cancel_futures=True)
        while self._readers:
            self._readers.pop().close()

    async def search(self, query: Query) -> Results:
        """Answer a query from one snapshot of the live index."""
        query.check()
        return await self._read(lambda reader: reader.search(query))

    async def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """Topics of matches that nothing is known about yet."""
        query.check()
        return await self._read(lambda reader: reader.unasked(query, denied, limit))

    async def topics(self, after: str = "", limit: int = 1000) -> list[str]:
        """Conversations by name."""
        return await self._read(lambda reader: reader.topics(after, limit))

    async def held(self, topic: str, first_seq: int, last_seq: int, limit: int = 1000) -> list[int]:
        """Ids of a stretch of a conversation."""
        return await self._read(lambda reader: reader.held(topic, first_seq, last_seq, limit))

    async def count(self) -> int:
        """How many messages the live index has."""
        return await self._read(lambda reader: reader.count())

    async def _read(self, work: Callable[[Reader], T]) -> T:
        if self._searchers is None:
            raise SearchUnavailable("the search index is not open")
        if self._searching >= _WAITING:
            raise SearchUnavailable(f"{self._searching} searches are under way: try again")
        self._searching += 1
        future = asyncio.get_running_loop().run_in_executor(self._searchers, self._with_reader, work)
        # Counted until its thread is done, also when the one who asked has gone.
        future.add_done_callback(self._searched)
        return await future

    def _searched(self, _: object) -> None:
        self._searching -= 1

    def _with_reader(self, work: Callable[[Reader], T]) -> T:
        reader = self._readers.pop() if self._readers else Reader(str(self._path), self._seconds)
        try:
            return work(reader)
        finally:
            self._readers.append(reader)


class Fts5Engine(Fts5Searcher):
    """`plugins.search.engine.Engine` over a file. Opening waits ``patience`` seconds for another writer to end."""

    def __init__(self, path: str | Path, *, seconds: float = 5.0, patience: float = 10.0) -> None:
        super().__init__(path, seconds=seconds)
        self._lock = WriteLock(self._path, patience=patience)
        self._db: sqlite3.Connection | None = None
        self._live: Generation | None = None
        self._rebuild: _Fts5Rebuild | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._stale = False

    @property
    def stale(self) -> bool:
        """Whether another tokeniser, or tables of an earlier layout, made the live index."""
        return self._stale

    @property
    def away(self) -> str:
        """Nothing can be: it is in this process."""
        return ""

    async def open(self) -> None:
        """Make or open the file, take the lock, and remove what an interrupted rebuild left."""
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "search-writer")
        await self._write(self._open_to_write)
        await super().open()

    def _open_to_write(self) -> None:
        if self._db is not None:
            return
        db = self._connected()
        try:
            self._lock.take()
            live = live_generation(db)
            drop_others(db, live)
            set_merging(db, live)
            self._stale = maker_of(db, live) != made_by()
        except BaseException:
            db.close()
            self._lock.release()
            raise
        self._db, self._live = db, Generation(db, live)

    async def close(self) -> None:
        """Finish the write under way, and close the file. May be called twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.shutdown)
        await super().close()
        if self._db is not None:
            self._db.close()
        self._db = self._live = self._rebuild = None
        self._lock.release()

    @property
    def ahead(self) -> int:
        """One after the other: they'd wait for the same thread."""
        return 1

    async def positions(self) -> Positions:
        """The positions of the live index."""
        return await self._write(lambda: self._generation().positions())

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages and set the positions in one transaction."""
        await self._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages, some hundreds a transaction."""
        await self._delete(self._generation, ids)

    async def purge(self) -> bool:
        """Merge the segments that hold what was deleted, some hundred pages a transaction, and cut the log at the end."""
        return await self._write(lambda: self._generation().purge())

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation, some hundreds a transaction."""
        await self._forget(self._generation, topic, before_seq)

    async def rebuild(self) -> _Fts5Rebuild:
        """Begin a new generation beside the live one."""
        if self._rebuild is not None:
            await self._rebuild.discard()
        self._rebuild = _Fts5Rebuild(self, await self._write(self._new_generation))
        return self._rebuild

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

    def _generation(self) -> Generation:
        if self._live is None:
            raise SearchUnavailable("the search index is not open")
        return self._live

    async def _delete(self, generation: Callable[[], Generation], ids: Collection[int]) -> None:
        listed = list(ids)
        for at in range(0, len(listed), _DELETE_AT_ONCE):
            some = listed[at : at + _DELETE_AT_ONCE]
            await self._write(lambda some=some: generation().delete(some))  # type: ignore[misc]

    async def _forget(self, generation: Callable[[], Generation], topic: str, before_seq: int) -> None:
        while await self._write(lambda: generation().forget(topic, before_seq, _FORGET_AT_ONCE)) == _FORGET_AT_ONCE:
            pass

    async def _write(self, work: Callable[[], T]) -> T:
        if self._writer is None:
            raise SearchUnavailable("the search index is closed")
        return await asyncio.get_running_loop().run_in_executor(self._writer, _explained(work))


class _Fts5Rebuild:
    """A generation that fills beside the live one, in the same writer thread."""

    def __init__(self, engine: Fts5Engine, generation: Generation) -> None:
        self._engine = engine
        self._filling: Generation | None = generation

    def _generation(self) -> Generation:
        if self._filling is None:
            raise SearchError("the rebuild is over")
        return self._filling

    @property
    def ahead(self) -> int:
        """One after the other: they'd wait for the same thread."""
        return 1

    async def positions(self) -> Positions:
        """The positions of the new index."""
        return await self._engine._write(lambda: self._generation().positions())

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages and set the positions in one transaction."""
        await self._engine._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._engine._delete(self._generation, ids)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._engine._forget(self._generation, topic, before_seq)

    async def swap(self) -> None:
        """Become the live generation, then remove the old one's tables."""

        def swap() -> None:
            filled = self._generation()
            filled.db.execute("UPDATE meta SET value = ? WHERE key = 'live'", (filled.number,))
            self._engine._live, self._engine._stale, self._filling = filled, False, None
            try:
                drop_others(filled.db, filled.number)
            except sqlite3.OperationalError as error:  # the new one is in use all the same
                log.warning("the old search index takes up room until the next start: %s", error)

        await self._engine._write(swap)
        self._engine._rebuild = None

    async def discard(self) -> None:
        """Remove the new generation's tables."""
        filling, self._filling = self._filling, None
        if filling is not None:
            await self._engine._write(lambda: drop_others(filling.db, self._engine._generation().number))
            self._engine._rebuild = None


def _explained(work: Callable[[], T]) -> Callable[[], T]:
    """The work, with SQLite's errors told as ours."""

    def run() -> T:
        try:
            return work()
        except sqlite3.OperationalError as error:  # full, locked, read-only: may pass
            raise SearchUnavailable(f"search index: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SearchUnusable(
                f"search index: {error}: remove the file and restart, it is made again from the store"
            ) from error

    return run
