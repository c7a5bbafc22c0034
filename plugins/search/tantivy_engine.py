"""The index on tantivy: a folder, and the package of that name, which is an extra.

It takes a third of the embedded engine's bytes. One thread writes, a few read, in one process or in two, as with the embedded
engine. Who writes holds the `WriteLock`.

Over 300 lines: each method of the engine's two halves, and of a rebuild, hands its work to a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from plugins.search.compare import documents
from plugins.search.engine import Document, Positions, Query, Results, SearchError, SearchUnavailable, SearchUnusable
from plugins.search.tantivy_index import Generation, drop_others, live_generation, made_by, make_live, new_generation
from plugins.search.tantivy_search import Reader, Snapshot
from plugins.search.write_lock import BeingWritten, WriteLock
from storage.private import make_folder
from storage.records import Message

log = logging.getLogger("tideline.search")

T = TypeVar("T")

_READERS = 4
_WAITING = 64
"""Searches under way or waiting for a thread; more are refused as `SearchUnavailable`."""
_READ_AT_ONCE = 50
_REWRITTEN_BYTES = 4 << 20
"""About as much is read of the store for one step of a purge."""


class Texts(Protocol):
    """Where the texts of indexed messages are."""

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """Those of the messages that there are."""


class TantivySearcher:
    """The searching half, which works beside a writer in this process or another one. A query is not broken off."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._reader = Reader(self._folder)
        self._searchers: ThreadPoolExecutor | None = None
        self._searching = 0

    async def open(self) -> None:
        """Make an index where there is none, unless somebody is about to."""
        if self._searchers is None:
            await asyncio.to_thread(self._make)
            self._searchers = ThreadPoolExecutor(_READERS, "search-reader")

    def _make(self) -> None:
        lock = WriteLock(self._folder, patience=0.0)
        try:
            make_folder(self._folder)
            if not live_generation(self._folder):
                lock.take()
                self._begin()
        except BeingWritten:
            pass
        except (ValueError, OSError) as error:
            raise SearchUnusable(f"search index {self._folder}: {error}") from error
        finally:
            lock.release()

    def _begin(self) -> Generation:
        """The live generation; a new one where there is none. The lock is held."""
        live = live_generation(self._folder)
        if not live or not (self._folder / str(live)).is_dir():
            live = new_generation(self._folder)
            Generation(self._folder, live)
            make_live(self._folder, live)
        return Generation(self._folder, live)

    async def close(self) -> None:
        """Let searches under way end, and close the files. May be called twice."""
        searchers, self._searchers = self._searchers, None
        if searchers is not None:
            await asyncio.to_thread(searchers.shutdown, cancel_futures=True)
        self._reader = Reader(self._folder)

    async def search(self, query: Query) -> Results:
        """Answer a query from one snapshot of the live index."""
        query.check()
        return await self._read(lambda snapshot: snapshot.search(query))

    async def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """Topics of matches that nothing is known about yet."""
        query.check()
        return await self._read(lambda snapshot: snapshot.unasked(query, denied, limit))

    async def topics(self, after: str = "", limit: int = 1000) -> list[str]:
        """Conversations by name."""
        return await self._read(lambda snapshot: snapshot.topics(after, limit))

    async def held(self, topic: str, first_seq: int, last_seq: int, limit: int = 1000) -> list[int]:
        """Ids of a stretch of a conversation."""
        return await self._read(lambda snapshot: snapshot.held(topic, first_seq, last_seq, limit))

    async def count(self) -> int:
        """How many messages the live index has."""
        return await self._read(lambda snapshot: snapshot.count())

    async def _read(self, work: Callable[[Snapshot], T]) -> T:
        if self._searchers is None:
            raise SearchUnavailable("the search index is not open")
        if self._searching >= _WAITING:
            raise SearchUnavailable(f"{self._searching} searches are under way: try again")
        self._searching += 1
        future = asyncio.get_running_loop().run_in_executor(self._searchers, self._with_snapshot, work)
        # Counted until its thread is done, also when the one who asked has gone.
        future.add_done_callback(self._searched)
        return await future

    def _searched(self, _: object) -> None:
        self._searching -= 1

    def _with_snapshot(self, work: Callable[[Snapshot], T]) -> T:
        with self._reader.snapshot() as snapshot:
            return work(snapshot)


class TantivyEngine(TantivySearcher):
    """`plugins.search.engine.Engine` over a folder. ``texts`` is the store, which a purge reads again. Opening waits
    ``patience`` seconds for another writer to end."""

    def __init__(self, folder: str | Path, texts: Texts, *, patience: float = 10.0) -> None:
        super().__init__(folder)
        self._texts = texts
        self._lock = WriteLock(self._folder, patience=patience)
        self._live: Generation | None = None
        self._rebuild: _TantivyRebuild | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._stale = False

    @property
    def stale(self) -> bool:
        """Whether another tokeniser, or fields of an earlier layout, made the live index."""
        return self._stale

    @property
    def away(self) -> str:
        """Nothing can be: it is in this process."""
        return ""

    async def open(self) -> None:
        """Take the lock, make or open the index, and remove what an interrupted rebuild left."""
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "search-writer")
        await self._write(self._open_to_write)
        await super().open()

    def _open_to_write(self) -> None:
        if self._live is not None:
            return
        try:
            make_folder(self._folder)
            self._lock.take()
            try:
                live = self._begin()
            except ValueError as error:
                if "os error" in str(error):  # no right, no room, too many files: that is not the index's fault
                    raise
                self._set_aside(error)
                live = self._begin()
            drop_others(self._folder, live.number)
        except (ValueError, OSError) as error:
            self._lock.release()
            raise SearchUnusable(f"search index {self._folder}: {error}") from error
        self._live, self._stale = live, live.maker != made_by()

    def _set_aside(self, error: ValueError) -> None:
        """An index that cannot be read is begun anew."""
        aside = self._folder.with_name(self._folder.name + ".broken")
        log.warning("search index %s cannot be read (%s): moved to %s, a new one begins", self._folder, error, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self._folder, aside)
        make_folder(self._folder)

    async def close(self) -> None:
        """Finish the write under way, and close the files. May be called twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.shutdown)
        await super().close()
        for generation in (self._live, self._rebuild.filling if self._rebuild else None):
            if generation is not None:
                generation.close()
        self._live = self._rebuild = None
        self._lock.release()

    @property
    def ahead(self) -> int:
        """One after the other: they'd wait for the same thread."""
        return 1

    async def positions(self) -> Positions:
        """The positions of the live index."""
        return await self._write(lambda: self._generation().positions())

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, then set the positions."""
        await self._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._write(lambda: self._generation().delete(ids))

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._write(lambda: self._generation().forget(topic, before_seq))

    async def purge(self) -> bool:
        """Add again, some hundreds a commit, what is beside deleted messages in their segments, so that those go."""
        ids = await self._write(lambda: self._generation().due())
        if not ids:
            return False
        messages: list[Message] = []
        read = size = 0
        while read < len(ids) and size < _REWRITTEN_BYTES:
            page = await self._texts.read_messages(ids[read : read + _READ_AT_ONCE])
            messages += [message for message in page if not message.recalled]
            size += sum(len(message.payload) for message in page)
            read += _READ_AT_ONCE
        again = await asyncio.to_thread(documents, messages)
        await self._write(lambda: self._generation().rewrite(ids[:read], again))
        return True

    async def rebuild(self) -> _TantivyRebuild:
        """Begin a new generation beside the live one."""
        if self._rebuild is not None:
            await self._rebuild.discard()

        def begin() -> Generation:
            self._generation()
            return Generation(self._folder, new_generation(self._folder))

        self._rebuild = _TantivyRebuild(self, await self._write(begin))
        return self._rebuild

    def _generation(self) -> Generation:
        if self._live is None:
            raise SearchUnavailable("the search index is not open")
        return self._live

    async def _write(self, work: Callable[[], T]) -> T:
        if self._writer is None:
            raise SearchUnavailable("the search index is closed")
        return await asyncio.get_running_loop().run_in_executor(self._writer, _explained(work))


class _TantivyRebuild:
    """A generation that fills beside the live one, in the same writer thread."""

    def __init__(self, engine: TantivyEngine, generation: Generation) -> None:
        self._engine = engine
        self.filling: Generation | None = generation

    def _generation(self) -> Generation:
        if self.filling is None:
            raise SearchError("the rebuild is over")
        return self.filling

    @property
    def ahead(self) -> int:
        """One after the other: they'd wait for the same thread."""
        return 1

    async def positions(self) -> Positions:
        """The positions of the new index."""
        return await self._engine._write(lambda: self._generation().positions())

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, then set the positions."""
        await self._engine._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._engine._write(lambda: self._generation().delete(ids))

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._engine._write(lambda: self._generation().forget(topic, before_seq))

    async def swap(self) -> None:
        """Become the live generation, then remove the old one's folder."""

        def swap() -> None:
            engine, filled = self._engine, self._generation()
            make_live(engine._folder, filled.number)
            old, engine._live, engine._stale, self.filling = engine._live, filled, False, None
            if old is not None:
                old.close()
            try:
                drop_others(engine._folder, filled.number)
            except OSError as error:  # the new one is in use all the same
                log.warning("the old search index takes up room until the next start: %s", error)

        await self._engine._write(swap)
        self._engine._rebuild = None

    async def discard(self) -> None:
        """Remove the new generation's folder."""
        filling, self.filling = self.filling, None
        if filling is not None:

            def drop() -> None:
                filling.close()
                drop_others(self._engine._folder, self._engine._generation().number)

            await self._engine._write(drop)
            self._engine._rebuild = None


def _explained(work: Callable[[], T]) -> Callable[[], T]:
    """The work, with tantivy's errors, which are of one kind, and the disk's told as ours."""

    def run() -> T:
        try:
            return work()
        except ValueError as error:
            if "orrupt" in str(error):
                text = f"search index: {error}: remove the folder and restart, it is made again from the store"
                raise SearchUnusable(text) from error
            raise SearchUnavailable(f"search index: {error}") from error
        except OSError as error:
            raise SearchUnavailable(f"search index: {error}") from error

    return run
