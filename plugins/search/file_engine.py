"""What the engines have in common whose index is in files of this machine: searches, writing and rebuilds, in threads.

One thread writes, a few read, in one process or in two; the event loop only waits for them. Who writes holds the `WriteLock`.
A *generation* is an index: the live one is searched, and a rebuild fills another beside it, which then takes its place.

Over 300 lines: each method of an engine's two halves, and of a rebuild, hands its work to a thread.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from plugins.search.engine import Document, Positions, Query, Results, SearchError, SearchUnavailable
from plugins.search.write_lock import WriteLock

log = logging.getLogger("tideline.search")

SECONDS = 5.0
"""How long a query may take."""
_READERS = 4
_WAITING = 64
"""Searches under way or waiting for a thread; more are refused as `SearchUnavailable`."""


class Answers(Protocol):
    """What a thread asks of the live index as it was at one moment; all as `plugins.search.engine.Searcher` has it."""

    def search(self, query: Query) -> Results: ...

    def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]: ...

    def topics(self, after: str, limit: int) -> list[str]: ...

    def held(self, topic: str, first_seq: int, last_seq: int, limit: int) -> list[int]: ...

    def count(self) -> int: ...


class Generation(Protocol):
    """What the writer's thread does with an index; each as `plugins.search.engine.Writer` has it, and a transaction."""

    @property
    def stale(self) -> bool:
        """Whether another tokeniser, or another layout, made it."""

    def positions(self) -> Positions: ...

    def index(self, batch: Sequence[Document], positions: Positions) -> None: ...

    def delete(self, ids: Collection[int]) -> None: ...

    def forget(self, topic: str, before_seq: int) -> bool:
        """Remove some of them; whether there may be more."""

    def close(self) -> None:
        """Let go of what is the generation's own."""


T = TypeVar("T")
A = TypeVar("A", bound=Answers)
G = TypeVar("G", bound=Generation)


class FileSearcher(ABC, Generic[A]):
    """The searching half, which works beside a writer in this process or another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._searchers: ThreadPoolExecutor | None = None
        self._searching = 0

    @abstractmethod
    def _make(self) -> None:
        """Make an index where there is none. Raises `SearchUnusable`."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[A]:
        """What answers one question. Raises `SearchUnavailable`, also where that is asked within it."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close the files. May be called twice."""

    async def open(self) -> None:
        """Make an index where there is none, and be ready to search."""
        if self._searchers is None:
            await asyncio.to_thread(self._make)
            self._searchers = ThreadPoolExecutor(_READERS, "search-reader")

    async def close(self) -> None:
        """Let searches under way end, and close the files. May be called twice."""
        searchers, self._searchers = self._searchers, None
        if searchers is not None:
            await asyncio.to_thread(searchers.shutdown, cancel_futures=True)
        self._let_go()

    async def search(self, query: Query) -> Results:
        """Answer a query from one snapshot of the live index."""
        query.check()
        return await self._read(lambda answers: answers.search(query))

    async def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """Topics of matches that nothing is known about yet."""
        query.check()
        return await self._read(lambda answers: answers.unasked(query, denied, limit))

    async def topics(self, after: str = "", limit: int = 1000) -> list[str]:
        """Conversations by name."""
        return await self._read(lambda answers: answers.topics(after, limit))

    async def held(self, topic: str, first_seq: int, last_seq: int, limit: int = 1000) -> list[int]:
        """Ids of a stretch of a conversation."""
        return await self._read(lambda answers: answers.held(topic, first_seq, last_seq, limit))

    async def count(self) -> int:
        """How many messages the live index has."""
        return await self._read(lambda answers: answers.count())

    async def _read(self, work: Callable[[A], T]) -> T:
        if self._searchers is None:
            raise SearchUnavailable("the search index is not open")
        if self._searching >= _WAITING:
            raise SearchUnavailable(f"{self._searching} searches are under way: try again")
        self._searching += 1
        future = asyncio.get_running_loop().run_in_executor(self._searchers, self._answered, work)
        # Counted until its thread is done, also when the one who asked has gone.
        future.add_done_callback(self._searched)
        return await future

    def _searched(self, _: object) -> None:
        self._searching -= 1

    def _answered(self, work: Callable[[A], T]) -> T:
        with self._reading() as answers:
            return work(answers)


class FileEngine(FileSearcher[A], Generic[A, G]):
    """`plugins.search.engine.Engine` but for its purge. Opening waits ``patience`` seconds for another writer to end."""

    deleted_at_once: ClassVar[int]
    """Messages that `Generation.delete` is given at once."""
    drop_errors: ClassVar[type[Exception]]
    """What `_drop_others` raises where it cannot, and what does no harm then."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__(path)
        self._lock = WriteLock(path, patience=patience)
        self._live: G | None = None
        self._rebuild: _FileRebuild[G] | None = None
        self._writer: ThreadPoolExecutor | None = None

    # --- what the writer's thread does, by the kind of files -----------------------------------------------------------

    @abstractmethod
    def _opened(self) -> G:
        """The live generation, with no other beside it and the lock taken. Raises with the lock given back."""

    @abstractmethod
    def _new_generation(self) -> G:
        """An empty one beside the live one."""

    @abstractmethod
    def _make_live(self, generation: G) -> None:
        """Have it be the live one, whatever crashes: the one before or this one."""

    @abstractmethod
    def _drop_others(self, live: G) -> None:
        """Remove all but the live one."""

    @abstractmethod
    def _explained(self, work: Callable[[], T]) -> T:
        """The work, with errors of the files told as ours."""

    # --- an engine ------------------------------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Whether another tokeniser, or another layout, made the live index."""
        return self._live is not None and self._live.stale

    @property
    def away(self) -> str:
        """Nothing can be: it is in this process."""
        return ""

    @property
    def ahead(self) -> int:
        """One after the other: they'd wait for the same thread."""
        return 1

    async def open(self) -> None:
        """Take the lock, make or open the index, and remove what an interrupted rebuild left."""
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "search-writer")
        await self._write(self._open_to_write)
        await super().open()

    def _open_to_write(self) -> None:
        if self._live is None:
            self._live = self._opened()

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

    async def positions(self) -> Positions:
        """The positions of the live index."""
        return await self._write(lambda: self._generation().positions())

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages and set the positions."""
        await self._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._delete(self._generation, ids)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._forget(self._generation, topic, before_seq)

    async def rebuild(self) -> _FileRebuild[G]:
        """Begin a new generation beside the live one."""
        if self._rebuild is not None:
            await self._rebuild.discard()

        def begin() -> G:
            self._generation()
            return self._new_generation()

        self._rebuild = _FileRebuild(self, await self._write(begin))
        return self._rebuild

    def _generation(self) -> G:
        if self._live is None:
            raise SearchUnavailable("the search index is not open")
        return self._live

    async def _delete(self, generation: Callable[[], G], ids: Collection[int]) -> None:
        listed = list(ids)
        for at in range(0, len(listed), self.deleted_at_once):
            some = listed[at : at + self.deleted_at_once]
            await self._write(lambda some=some: generation().delete(some))  # type: ignore[misc]

    async def _forget(self, generation: Callable[[], G], topic: str, before_seq: int) -> None:
        while await self._write(lambda: generation().forget(topic, before_seq)):
            pass

    async def _write(self, work: Callable[[], T]) -> T:
        if self._writer is None:
            raise SearchUnavailable("the search index is closed")
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._explained, work)


class _FileRebuild(Generic[G]):
    """A generation that fills beside the live one, in the same writer thread."""

    def __init__(self, engine: FileEngine[A, G], generation: G) -> None:
        self._engine = engine
        self.filling: G | None = generation

    def _generation(self) -> G:
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
        """Add messages and set the positions."""
        await self._engine._write(lambda: self._generation().index(batch, positions))

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._engine._delete(self._generation, ids)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._engine._forget(self._generation, topic, before_seq)

    async def swap(self) -> None:
        """Become the live generation, then remove the old one."""
        await self._engine._write(self._swap)
        self._engine._rebuild = None

    def _swap(self) -> None:
        engine, filled = self._engine, self._generation()
        engine._make_live(filled)
        old, engine._live, self.filling = engine._live, filled, None
        if old is not None:
            old.close()
        try:
            engine._drop_others(filled)
        except engine.drop_errors as error:  # the new one is in use all the same
            log.warning("the old search index takes up room until the next start: %s", error)

    async def discard(self) -> None:
        """Remove the new generation."""
        filling, self.filling = self.filling, None
        if filling is not None:

            def drop() -> None:
                filling.close()
                self._engine._drop_others(self._engine._generation())

            await self._engine._write(drop)
            self._engine._rebuild = None
