"""The write-ahead log stays short: it is moved in time, also where few large values fill it, and mostly beside the writer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from storage.records import Operation, PutRow
from storage.sqlite import SqliteStorage, checkpoint
from storage.sqlite.checkpoint import FEW, PAGES, Checkpointer
from storage.sqlite.connection import connect_writer
from storage.sqlite.retention import prune_conversation
from storage.sqlite.threads import Worker
from tests.storage.samples import Maker
from tests.support.until import until

PAGE = 4096
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tideline.db"


def log_of(path: Path) -> int:
    """Bytes of the log. It is written over from its beginning, and not cut: so this is how long it ever was."""
    return path.with_name(path.name + "-wal").stat().st_size


def rests(storage: SqliteStorage) -> bool:
    """No checkpoint is under way."""
    assert storage._checkpointer is not None
    return not storage._checkpointer._running


def messages(make: Maker, size: int) -> list[Operation]:
    return [make.append("a", ["u/ann"], b"m" * size)]


def retained(make: Maker, size: int) -> list[Operation]:
    return [make.append("a", [], b"r" * size, store=False, retain=True)]


def rows(make: Maker, size: int) -> list[Operation]:
    make.id += 1
    return [PutRow("table", "part", str(make.id), b"v" * size)]


@pytest.mark.parametrize("size", [64 << 10, MIB])
@pytest.mark.parametrize("some", [messages, retained, rows], ids=lambda some: some.__name__)
async def test_few_large_values_are_moved_out_of_the_log(
    path: Path, some: Callable[[Maker, int], list[Operation]], size: int
) -> None:
    """Two times what the log may have: by their number they are far from being moved."""
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    await until(lambda: rests(storage))
    for _ in range(2 * PAGES * PAGE // size):
        await storage.commit(some(make, size))
        await until(lambda: rests(storage))
    assert log_of(path) < PAGES * PAGE * 5 // 4 + 2 * MIB
    await storage.close()


class Interrupted(sqlite3.Connection):
    """A checkpoint during which the writer goes on."""

    meanwhile: Callable[[], None]

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:  # type: ignore[override]
        done = super().execute(sql, parameters)
        if "wal_checkpoint" in sql:
            self.meanwhile()
        return done


def interrupt(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Interrupted)
        connection.meanwhile = meanwhile
        return connection

    monkeypatch.setattr(checkpoint, "connect_checkpointer", connect)


@pytest.mark.inside
@pytest.mark.parametrize(
    ("meanwhile", "rounds"),
    [([], 1), ([FEW - 10], 1), ([1900], 2), ([1900, 800], 3), ([1900, 800, FEW - 10], 3), ([2100], 1), ([1900, 1100], 2)],
)
async def test_much_that_was_written_meanwhile_is_moved_beside_the_writer_too(
    path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: list[int], rounds: int
) -> None:
    """Round by round, until the writer has a few pages to move itself, or writes them nearly as fast as they are moved."""
    written = 0
    left = list(meanwhile)
    sqlite3.connect(path).close()
    writer = connect_writer(path, busy_timeout=1.0)
    writer.execute("CREATE TABLE some (value BLOB)")

    def write(pages: int) -> None:
        nonlocal written
        writer.execute("INSERT INTO some VALUES (zeroblob(?))", (pages * PAGE,))
        written += pages
        if checkpointer.note(1, written * PAGE):
            written = 0

    def go_on() -> None:
        if left:
            write(left.pop(0))

    interrupt(monkeypatch, go_on)
    moved: list[int] = []
    worker = Worker("writer")
    checkpointer = Checkpointer(path, worker, lambda: moved.append(path.stat().st_size // PAGE))
    write(PAGES)
    await until(lambda: moved)
    expected = PAGES + sum(meanwhile[: rounds - 1])
    assert expected <= moved[0] < expected + 100
    await checkpointer.stop()
    await worker.stop()
    writer.close()


@pytest.mark.inside
async def test_what_was_moved_at_last_is_not_counted_for_the_next_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    make, storage = Maker(), SqliteStorage(path)

    def commit() -> None:
        asyncio.run_coroutine_threadsafe(storage.commit(messages(make, MIB)), loop).result()

    interrupt(monkeypatch, commit)
    await storage.open()
    await until(lambda: make.id == 1 and rests(storage))  # the log is looked at a moment after the start
    writer = storage._writer
    assert writer is not None
    assert writer.work == writer.large == 0
    await storage.close()


async def test_what_retention_overwrites_is_moved_out_of_the_log_too(path: Path) -> None:
    """In steps that are as small as those of small messages, and with no commit of a message in between."""
    count = 2 * PAGES * PAGE // MIB
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    for _ in range(count):
        await storage.commit([make.append("a", ["u/ann"], b"m" * MIB)])
    await until(lambda: rests(storage))
    await storage.close()
    await storage.open()
    await until(lambda: rests(storage))
    assert log_of(path) < MIB
    removed = 0
    while step := await storage.prune_conversation("a", count, limit=4):
        removed += step
        await until(lambda: rests(storage))
    assert removed == count - 1
    assert log_of(path) < PAGES * PAGE * 5 // 4 + 5 * MIB
    await storage.close()


def test_a_step_of_retention_is_short_where_payloads_are_large(path: Path) -> None:
    """A commit waits for one of them at most."""
    connection = asyncio.run(filled(path, [100, *[MIB] * 9, *[100] * 900]))
    sizes = []
    while (step := prune_conversation(connection, "a", 1000, 500)).more:
        sizes.append((step.entries, step.size))
    sizes.append((step.entries, step.size))
    four = 4 * MIB
    assert sizes == [(5, 100 + four), (4, four), (500, MIB + 499 * 100), (401, 401 * 100)]
    connection.close()


async def filled(path: Path, sizes: Sequence[int]) -> sqlite3.Connection:
    """Messages of these sizes in one conversation, and a connection that may write."""
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    await storage.commit([make.append("a", [], bytes(size)) for size in sizes])
    await storage.close()
    return connect_writer(path, busy_timeout=1.0)
