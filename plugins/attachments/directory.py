"""Pieces as files in a directory: one folder for each attachment, below one for the first two digits of its id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from plugins.attachments.pieces import Found, PiecesAway

T = TypeVar("T")

_THREADS = 4
_SUFFIX = ".new"
"""Of a file that is being written. One that a crash left is removed as any piece that is nobody's."""


class Directory:
    """See `plugins.attachments.pieces.Pieces`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="attachments")

    async def open(self) -> None:
        def check() -> None:
            probe = self._path / f".probe-{os.getpid()}"
            try:
                self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
                probe.write_bytes(b"")
                probe.unlink()
            except OSError as error:
                why = "it is no directory" if self._path.is_file() else error.strerror
                raise PiecesAway(f"{self._path} cannot be written by this user: {why}") from error

        await self._run(check)

    async def put(self, name: str, data: bytes) -> None:
        await self._run(lambda: self._put(self._file(name), data))

    def _put(self, file: Path, data: bytes) -> None:
        folder = file.parent
        made = not folder.is_dir()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = file.with_name(file.name + _SUFFIX)
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            written.rename(file)
        except OSError:
            written.unlink(missing_ok=True)
            raise
        for place in (folder, folder.parent, self._path) if made else (folder,):
            _sync(place)

    async def get(self, name: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            with self._file(name).open("rb") as stream:
                stream.seek(start)
                return stream.read(end - start)

        return await self._run(read)

    async def drop(self, names: Iterable[str]) -> None:
        await self._run(lambda: self._remove(map(self._file, names)))

    async def clear(self, id: str) -> None:
        await self._run(lambda: self._remove([*self._file(id).glob("*")]))

    def _remove(self, files: Iterable[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)
            for folder in (file.parent, file.parent.parent):
                with contextlib.suppress(OSError):  # others are in it
                    folder.rmdir()

    async def every(self) -> AsyncIterator[list[Found]]:
        folders = await self._run(lambda: sorted(place for place in self._path.glob("??/*") if place.is_dir()))
        for folder in folders:
            yield await self._run(lambda folder=folder: [*_files(folder)])  # type: ignore[misc]

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    def _file(self, name: str) -> Path:
        return self._path / name[:2] / name

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:  # the broker ends
            raise PiecesAway("the directory of attachments is closed") from error
        try:
            return await running
        except OSError as error:
            raise PiecesAway(f"the directory of attachments: {error.strerror or type(error).__name__}") from error


def _files(folder: Path) -> Iterator[Found]:
    now = time.time()
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            yield Found(f"{folder.name}/{entry.name}", now - entry.stat().st_mtime)


def _sync(folder: Path) -> None:
    """Make durable which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
