"""The database as a file: it is fsync'd before a commit returns, has one broker, and says what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import MessageRefused, StorageInUse, StorageUnavailable, StorageUnusable
from storage.records import DeviceKey, PutRow
from storage.sqlite import SqliteStorage, queries
from storage.sqlite.connection import connect_checkpointer
from storage.sqlite.structure import StructureCheck
from tests.storage.samples import START, Maker, fields_of, opened
from tests.storage_sqlite.filler import LOW_WATER
from tests.storage_sqlite.writer import COMMITS
from tests.support.until import until

ROOT = Path(__file__).parents[2]
FULL = 2
LEFT = b"what a crash left"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tideline.db"


async def filled(path: Path, count: int = 300) -> SqliteStorage:
    storage = SqliteStorage(path)
    await storage.open()
    await storage.commit(Maker().appends(count, to=["u/ann"]))
    return storage


# --- law 1: durable -------------------------------------------------------------------------------------------------


async def test_connections_that_write_ask_for_an_fsync(path: Path) -> None:
    storage = await filled(path)
    assert storage._writer is not None
    for connection in (storage._writer.connection, connect_checkpointer(path)):
        assert connection.execute("PRAGMA synchronous").fetchall() == [(FULL,)]
        assert connection.execute("PRAGMA fullfsync").fetchall() == [(1,)]
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    await storage.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see system calls")
def test_every_commit_is_followed_by_an_fsync_before_it_returns(tmp_path: Path) -> None:
    """The log of system calls has, before each line that tells of a commit, an fsync of its own."""
    calls = tmp_path / "calls"
    trace = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync,write", "-e", "signal=none", "-o", str(calls)]
    command = [*trace, sys.executable, "-m", "tests.storage_sqlite.writer", str(tmp_path / "tideline.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    synced = told = 0
    for line in calls.read_text().splitlines():
        synced += "sync(" in line
        if "committed" in line:
            told += 1
            assert synced > 0, f"commit {told} was told without an fsync"
            synced = 0
    assert told == COMMITS


# --- one broker -----------------------------------------------------------------------------------------------------


async def test_a_file_has_one_broker(path: Path) -> None:
    first, second = await filled(path), SqliteStorage(path)
    with pytest.raises(StorageInUse, match=f"served by another broker .process {os.getpid()}."):
        await second.open()
    reader = SqliteStorage(path, read_only=True)
    await reader.open()
    assert await reader.inbox_head("u/ann") == 300
    with pytest.raises(StorageUnusable, match="opened read-only"):
        await reader.commit([])
    await reader.close()
    await first.close()
    await second.open()
    await second.close()


async def test_who_only_reads_is_given_the_same_tail(path: Path) -> None:
    """It asks for rows, where a broker, whose threads share an interpreter's lock, asks for pages."""
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    await storage.commit([make.append(f"t/{n % 3}", payload=b"\0\xff" * n, properties=b"p" * (n % 2)) for n in range(40)])
    reader = SqliteStorage(path, read_only=True)
    await reader.open()
    for after, limit, max_bytes in ((0, 100, 9999), (0, 7, 9999), (35, 100, 9999), (0, 100, 1), (0, 100, 6), (0, 100, 7)):
        pages = [await one.read_tail(after, limit, max_bytes) for one in (storage, reader)]
        assert [fields_of(m) for m in pages[1]] == [fields_of(m) for m in pages[0]]
    await reader.close()
    await storage.close()


# --- what can be wrong ----------------------------------------------------------------------------------------------


def content(path: Path) -> bytes:
    return path.read_bytes()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 1000)


def holes(path: Path) -> None:
    """All pages but the first are overwritten."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def left(path: Path) -> None:
    path.write_bytes(LEFT)


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def set_unclean(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
    other.close()


def spoil_a_page_of_messages(path: Path) -> None:
    """One that opening has no need to read."""
    with sqlite3.connect(path) as other:
        ((middle,),) = other.execute("SELECT payload FROM store ORDER BY id LIMIT 1 OFFSET 150").fetchall()
    other.close()
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(middle) & ~4095)
        file.write(b"\xa5" * 4096)


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(garbage, "is not a SQLite database"), (holes, "is damaged"), (torn, "is damaged")],
    ids=["garbage", "holes", "torn"],
)
async def test_a_damaged_file_is_told_and_left_alone(path: Path, spoil: Callable[[Path], None], told: str) -> None:
    """After an unclean stop the structure is looked at before anybody is served, where that is a matter of a moment."""
    await (await filled(path)).close()
    set_unclean(path)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    spoil(path)
    before = content(path)
    storage = SqliteStorage(path, patience=60)
    with pytest.raises(StorageUnusable, match=told):
        await storage.open()
    assert content(path) == before
    await storage.close()


@pytest.fixture
def opened_first(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The look at the structure, which is as long as the file is large, waits until this is set."""
    may, problems = threading.Event(), queries.problems

    def late(connection: sqlite3.Connection, full: bool) -> list[str]:
        may.wait()
        return problems(connection, full)

    monkeypatch.setattr(queries, "problems", late)
    yield may
    may.set()


async def test_damage_that_is_found_behind_the_start_has_nothing_stored_any_more(
    path: Path, opened_first: threading.Event
) -> None:
    """Of a large file a start does not wait for the end of the look. The next one looks again."""
    await (await filled(path)).close()
    set_unclean(path)
    spoil_a_page_of_messages(path)
    make, storage = Maker(), SqliteStorage(path, patience=0)
    await storage.open()
    make.id = 1000
    await storage.commit([make.append(to=["u/ann"])])
    opened_first.set()

    async def refused() -> bool:
        try:
            await storage.commit([make.append(to=["u/ann"])])
        except StorageUnusable as error:
            return "is damaged" in str(error)
        return False

    await until(refused)
    await storage.close()
    storage = SqliteStorage(path, patience=60)
    with pytest.raises(StorageUnusable, match="is damaged"):
        await storage.open()
    await storage.close()


async def test_a_file_that_was_looked_through_counts_as_closed_cleanly(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await (await filled(path)).close()
    set_unclean(path)
    for _ in range(2):
        storage = SqliteStorage(path, patience=60)
        with caplog.at_level("INFO"):
            await storage.open()
        await storage.close()
    assert caplog.text.count("was not closed cleanly") == 1


async def test_below_the_low_water_mark_no_message_is_taken_and_devices_go_on(path: Path) -> None:
    make, storage = Maker(), SqliteStorage(path, low_water_bytes=1 << 60)
    await storage.open()
    message = make.append(to=["u/ann"])
    with pytest.raises(StorageUnavailable, match="MiB left, less than"):
        await storage.commit([message])
    await storage.commit([opened(DeviceKey("u/ann", "phone"))])
    storage._space._low_water = 0  # as if room had been made
    await storage.commit([message])
    assert (message.message.seq, list(message.inbox_seqs)) == (1, [1])
    await storage.close()


async def test_what_a_plugin_refuses_takes_no_room(path: Path) -> None:
    """It has a name, and so it comes as far as here: nothing begins with it, and it is refused also where room is low."""
    make, storage = Maker(), SqliteStorage(path, low_water_bytes=1 << 60)
    await storage.open()
    refused = make.append("never/there", ["u/nobody"], idempotency_key="k", idempotency_until=START + 1000)
    refused.refusal = MessageRefused("by a plugin")
    await storage.commit([refused])
    assert refused.error is refused.refusal
    assert storage._writer is not None
    for table in ("conversations", "users", "idempotency"):
        assert storage._writer.connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
    await storage.close()


async def test_a_statement_that_fails_half_way_leaves_nothing(path: Path) -> None:
    """SQLite is not asked to take back a statement alone: the whole transaction is, and the group is applied one by one."""
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    group = make.appends(6, to=["u/ann"])
    same = group[4].message
    same.id, same.topic = group[1].message.id, "another"
    await storage.commit(group)
    assert isinstance(group[4].error, MessageRefused)
    assert [append.message.seq for append in group] == [1, 2, 3, 4, 0, 5]
    assert await storage.conversation_bounds("another") == (1, 0)
    entries = await storage.read_inbox("u/ann", 0, 100)
    assert [(entry.seq, entry.message and entry.message.id) for entry in entries] == [
        (number, append.message.id) for number, append in enumerate((*group[:4], group[5]), 1)
    ]
    await storage.close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_an_empty_file_is_told_and_left_alone(path: Path, read_only: bool) -> None:
    """SQLite would take it for a new database, and its log for nothing: a broker would begin anew without a word."""
    await (await filled(path)).close()
    log = path.with_name(path.name + "-wal")
    emptied(path)
    left(log)
    storage = SqliteStorage(path, read_only=read_only)
    with pytest.raises(StorageUnusable, match=r"is empty .0 bytes.*restore it from a backup, or remove the file"):
        await storage.open()
    await storage.close()
    assert content(path) == b""
    assert content(log) == LEFT


async def test_a_log_without_its_database_is_told_and_left_alone(path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    left(log)
    storage = SqliteStorage(path)
    with pytest.raises(StorageUnusable, match=r"is missing, and its log tideline.db-wal is there"):
        await storage.open()
    await storage.close()
    assert files(path) == ["tideline.db-wal", "tideline.db.lock"]
    assert content(log) == LEFT


async def test_a_first_start_that_was_killed_leaves_no_empty_file(path: Path) -> None:
    """What it had begun has another name, and the next start makes it anew."""
    left(path.with_name(path.name + ".new"))
    await (await filled(path)).close()
    assert files(path) == ["tideline.db", "tideline.db.lock"]


@pytest.mark.parametrize("payload", [1000, 1 << 20, 24 << 20], ids=["small", "a MiB", "larger than the mark allows"])
def test_a_fast_writer_stops_at_the_low_water_mark(payload: int) -> None:
    """On a disk of its own: below the mark there is what the log still needs, and what devices go on with, and it is left."""
    fill = f"exec {sys.executable} -m tests.storage_sqlite.filler /mnt/t.db {payload}"
    inside = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=160m tmpfs /mnt && {fill}"]
    done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if "unshare failed" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"].startswith("/mnt has ")
    assert found["least"] >= LOW_WATER, found
    assert found["stored"] > 0


async def test_a_file_that_another_program_holds_is_waited_for_and_told(path: Path) -> None:
    make, storage = Maker(), SqliteStorage(path, busy_timeout=0.05)
    await storage.open()
    other = await asyncio.to_thread(sqlite3.connect, path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    message = make.append(to=["u/ann"])
    with pytest.raises(StorageUnavailable, match="is locked by another process"):
        await storage.commit([message, PutRow("t", "p", "given up", b"")])
    other.execute("ROLLBACK")
    other.close()
    await storage.commit([message, PutRow("t", "p", "kept", b"")])
    assert message.message.seq == 1
    assert [row.key for row in await storage.rows("t", "p")] == ["kept"]
    await storage.close()


def test_a_file_that_cannot_be_looked_at_for_a_moment_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    other = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "CREATE TABLE one (number INTEGER)"):
        other.execute(statement).fetchall()
    check = StructureCheck(path, 0.0)
    check.wait(60)
    check.refuse_damage()
    assert not check.passed
    other.close()
