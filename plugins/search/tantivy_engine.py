"""The index on tantivy: a folder, and the package of that name, which is an extra.

It takes a third of the embedded engine's bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from plugins.search.compare import documents
from plugins.search.engine import SearchUnavailable, SearchUnusable
from plugins.search.file_engine import SECONDS, FileEngine, FileSearcher
from plugins.search.tantivy_index import Generation, drop_others, live_generation, make_live, new_generation
from plugins.search.tantivy_search import Reader, Snapshot
from plugins.search.write_lock import BeingWritten, WriteLock
from storage.private import make_folder
from storage.records import Message

log = logging.getLogger("tideline.search")

T = TypeVar("T")

_READ_AT_ONCE = 50
_REWRITTEN_BYTES = 4 << 20
"""About as much is read of the store for one step of a purge."""


class Texts(Protocol):
    """Where the texts of indexed messages are."""

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """Those of the messages that there are."""


class TantivySearcher(FileSearcher[Snapshot]):
    """The searching half. A query that takes longer than ``seconds`` ends with the step under way."""

    def __init__(self, folder: str | Path, *, seconds: float = SECONDS) -> None:
        super().__init__(Path(folder))
        self._seconds = seconds
        self._reader = Reader(self._path)

    def _make(self) -> None:
        """Unless somebody is about to."""
        lock = WriteLock(self._path, patience=0.0)
        try:
            make_folder(self._path)
            if not live_generation(self._path):
                lock.take()
                self._begin()
        except BeingWritten:
            pass
        except (ValueError, OSError) as error:
            raise SearchUnusable(f"search index {self._path}: {error}") from error
        finally:
            lock.release()

    def _begin(self) -> Generation:
        """The live generation; a new one where there is none. The lock is held."""
        live = live_generation(self._path)
        if not live or not (self._path / str(live)).is_dir():
            live = new_generation(self._path)
            Generation(self._path, live)
            make_live(self._path, live)
        return Generation(self._path, live)

    def _reading(self) -> AbstractContextManager[Snapshot]:
        return self._reader.snapshot(self._seconds)

    def _let_go(self) -> None:
        self._reader = Reader(self._path)


class TantivyEngine(FileEngine[Snapshot, Generation], TantivySearcher):
    """The engine over a folder. ``texts`` is the store, which a purge reads again."""

    deleted_at_once = 10_000
    drop_errors = OSError

    def __init__(self, folder: str | Path, texts: Texts, *, seconds: float = SECONDS, patience: float = 10.0) -> None:
        super().__init__(Path(folder), patience)
        self._seconds = seconds
        self._texts = texts

    def _opened(self) -> Generation:
        try:
            make_folder(self._path)
            self._lock.take()
            try:
                live = self._begin()
            except ValueError as error:
                if "os error" in str(error):  # no right, no room, too many files: that is not the index's fault
                    raise
                self._set_aside(error)
                live = self._begin()
            drop_others(self._path, live.number)
        except (ValueError, OSError) as error:
            self._lock.release()
            raise SearchUnusable(f"search index {self._path}: {error}") from error
        return live

    def _set_aside(self, error: ValueError) -> None:
        """An index that cannot be read is begun anew."""
        aside = self._path.with_name(self._path.name + ".broken")
        log.warning("search index %s cannot be read (%s): moved to %s, a new one begins", self._path, error, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self._path, aside)
        make_folder(self._path)

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

    def _new_generation(self) -> Generation:
        return Generation(self._path, new_generation(self._path))

    def _make_live(self, generation: Generation) -> None:
        make_live(self._path, generation.number)

    def _drop_others(self, live: Generation) -> None:
        drop_others(self._path, live.number)

    def _explained(self, work: Callable[[], T]) -> T:
        """tantivy's errors are of one kind."""
        try:
            return work()
        except ValueError as error:
            if "orrupt" in str(error):
                text = f"search index: {error}: remove the folder and restart, it is made again from the store"
                raise SearchUnusable(text) from error
            raise SearchUnavailable(f"search index: {error}") from error
        except OSError as error:
            raise SearchUnavailable(f"search index: {error}") from error
