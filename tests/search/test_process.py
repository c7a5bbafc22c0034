"""The indexer in a process of its own, beside a real SQLite store: found soon, no hole and no double whatever is killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import plugins.search.process as process_module
import plugins.search.worker as worker_module
from plugins.search.engine import Query
from plugins.search.fts5 import Fts5Engine, Fts5Searcher
from plugins.search.process import IndexerProcess
from plugins.search.reindex import Progress
from plugins.search.service import Differences
from storage.factory import open_url
from storage.sqlite import SqliteStorage
from tests.search.stores import Publisher
from tests.search.test_fts5 import check_file
from tests.support import mongo_server
from tests.support.until import until

SOON = 60.0


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    storage = SqliteStorage(tmp_path / "tideline.db")
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.db"


@pytest.fixture
async def indexer(storage: SqliteStorage, path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IndexerProcess]:
    monkeypatch.setattr(process_module, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(process_module, "_LONGEST_WAIT", 0.1)
    indexer = IndexerProcess(_settings(path, batch=50), gather=0.005)
    indexer.start()
    yield indexer
    await indexer.stop()


@pytest.fixture
async def searcher(path: Path) -> AsyncIterator[Fts5Searcher]:
    searcher = Fts5Searcher(path)
    await searcher.open()
    yield searcher
    await searcher.close()


def _settings(path: Path, **measures: object) -> dict[str, object]:
    url = f"sqlite:///{path.with_name('tideline.db')}"
    return {"storage": url, "path": str(path), "batch": 2000, "share": 1.0, "poll": 2.0, **measures}


async def counts(searcher: Fts5Searcher, expected: int) -> bool:
    return await searcher.count() == expected


async def _ids(searcher: Fts5Searcher, **query: object) -> list[int]:
    found: list[int] = []
    page = await searcher.search(Query(limit=100, sort="oldest", **query))  # type: ignore[arg-type]
    found += [hit.id for hit in page.hits]
    while page.next:
        page = await searcher.search(Query(limit=100, sort="oldest", cursor=page.next, **query))  # type: ignore[arg-type]
        found += [hit.id for hit in page.hits]
    return found


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _running(indexer: IndexerProcess) -> int:
    """The process that is open, once there is one."""
    await until(lambda: indexer._open and indexer.pid)
    assert indexer.pid is not None
    return indexer.pid


async def test_what_is_published_here_is_found_here(
    storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher
) -> None:
    publisher = Publisher(storage)
    await publisher.publish("before it was up")
    assert await indexer.wait_indexed(1, SOON)
    await publisher.publish("会议 at noon", "another")
    indexer.notify(2)
    assert indexer.lag().messages >= 2
    assert await indexer.wait_indexed(3, SOON)
    assert await _ids(searcher, q="会议") == [2]
    await until(lambda: indexer.lag().messages == 0)
    assert indexer.lag() == (0, 0, 3)
    assert indexer.pid not in (None, os.getpid())
    assert not await indexer.wait_indexed(4, 0.05)


async def test_the_storage_url_is_in_no_list_of_processes(storage: SqliteStorage, indexer: IndexerProcess) -> None:
    pid = await _running(indexer)
    command = await asyncio.to_thread(Path(f"/proc/{pid}/cmdline").read_bytes)
    assert b"plugins.search.worker" in command
    assert b"tideline.db" not in command


async def test_the_process_imports_nothing_of_the_plugin(storage: SqliteStorage, indexer: IndexerProcess) -> None:
    """Which needs half of the broker: twenty megabytes, and two thirds of the time that a start takes."""
    pid = await _running(indexer)
    mapped = await asyncio.to_thread(Path(f"/proc/{pid}/maps").read_text)
    assert "_sqlite3" in mapped
    assert "_pydantic_core" not in mapped


@pytest.mark.skipif(sys.platform != "linux", reason="processors cannot be taken away")
def test_it_gives_way_where_there_is_one_processor() -> None:
    mine = os.sched_getaffinity(0)
    assert worker_module.niceness() == (0 if len(mine) > 1 else 10)
    os.sched_setaffinity(0, list(mine)[:1])
    try:
        assert worker_module.niceness() == 10
    finally:
        os.sched_setaffinity(0, mine)


async def test_stopping_ends_the_process_and_frees_the_index(
    storage: SqliteStorage, indexer: IndexerProcess, path: Path
) -> None:
    pid = await _running(indexer)
    await indexer.stop()
    assert not _exists(pid)
    assert indexer.pid is None
    engine = Fts5Engine(path, patience=0.0)
    await engine.open()
    await engine.close()
    await indexer.stop()


async def test_kills_leave_neither_hole_nor_double(
    storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher, path: Path
) -> None:
    rng = random.Random(11)
    publisher = Publisher(storage)
    kept = 1
    for _ in range(6):
        for _ in range(rng.randint(1, 8)):
            await publisher.publish(*[f"common {n}" for n in range(rng.randint(1, 60))])
            indexer.notify(1)
        if rng.random() < 0.6:
            kept = rng.randint(kept, publisher.last)
            await storage.prune_conversation("chat/a", kept)
            indexer.forget("chat/a", kept)
        pid = await _running(indexer)
        await asyncio.sleep(rng.random() * 0.1)  # not a wait: some instant within the work
        if indexer.pid == pid:
            os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: indexer.pid != pid)  # type: ignore[misc]
    assert await indexer.wait_indexed(publisher.last, SOON)
    expected = list(range(kept, publisher.last + 1))
    await until(lambda: counts(searcher, len(expected)))
    assert (await searcher.search(Query(q="common ", limit=1))).total == min(1000, len(expected))
    found = await _ids(searcher)
    assert found == expected[: len(found)]
    assert indexer.errors >= 6
    await indexer.stop()
    check_file(path)


async def test_a_reindex_outlives_the_process_and_ends_equal_to_the_live_index(
    storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher, path: Path
) -> None:
    """Published, removed and killed meanwhile; then the rebuilt index is compared with one that was only ever followed."""
    publisher = Publisher(storage)
    for topic in ("chat/a", "chat/b"):
        await publisher.publish(*[f"common {n} word{n % 7}" for n in range(300)], topic=topic)
    assert await indexer.wait_indexed(publisher.last, SOON)
    reports: list[Progress] = []
    killed: list[int] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(killed) < 2 and progress.fraction > 0.3 and indexer.pid not in (None, *killed):
            assert indexer.pid is not None
            os.kill(indexer.pid, signal.SIGKILL)
            killed.append(indexer.pid)

    rebuilding = asyncio.ensure_future(indexer.reindex(report))
    before = 1
    for _ in range(300):  # a machine on which the rebuild takes long shall not have ever more to index
        if rebuilding.done():
            break
        await publisher.publish("common meanwhile", topic="chat/a")
        indexer.notify(1)
        if before < 200:
            before += 5
            await storage.prune_conversation("chat/b", before)
            indexer.forget("chat/b", before)
        found = await searcher.search(Query(q="word3 ", limit=1))
        assert found.total > 40, "the live index stays in use"
        await asyncio.sleep(0.005)  # not a wait: the pace of the publisher
    assert await rebuilding >= 600 - 200
    assert killed  # and where the second report came in time, twice
    assert reports[-1].fraction == 1.0
    assert await indexer.wait_indexed(publisher.last, SOON)
    indexer.reconcile()
    followed = Fts5Searcher(path.with_name("followed.db"))
    await followed.open()
    beside = IndexerProcess(_settings(followed._path), gather=0.0)
    beside.start()
    assert await beside.wait_indexed(publisher.last, SOON)

    async def same() -> bool:
        return await searcher.count() == await followed.count()

    await until(same)
    for query in ({}, {"q": "common "}, {"q": "word5 "}, {"conversations": {"chat/b"}}, {"q": "meanwhile", "sender": "u/ann"}):
        assert await _ids(searcher, **query) == await _ids(followed, **query)
    assert await searcher.topics() == await followed.topics()
    await beside.stop()
    await followed.close()
    await indexer.stop()
    check_file(path)


async def test_a_reindex_can_be_cancelled(storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher) -> None:
    await Publisher(storage).publish(*[f"common {n}" for n in range(600)])
    assert await indexer.wait_indexed(600, SOON)
    going = asyncio.Event()
    task = asyncio.ensure_future(indexer.reindex(lambda progress: going.set()))
    async with asyncio.timeout(SOON):
        await going.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await searcher.count() == 600
    assert await indexer.reindex() == 600


async def test_a_comparison_is_made_there_too(
    storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher, path: Path
) -> None:
    await Publisher(storage).publish(*[f"common {n}" for n in range(120)])
    assert await indexer.wait_indexed(120, SOON)
    await indexer.stop()
    engine = Fts5Engine(path)
    await engine.open()
    await engine.delete([7, 8, 9])
    await engine.close()
    indexer.start()
    seen: list[Differences] = []
    found = await indexer.compare(seen.append)
    assert (found.conversations, found.messages, found.missing, found.surplus) == (1, 120, 3, 0)
    assert seen
    assert await searcher.count() == 120


async def test_a_process_that_is_frozen_costs_no_memory_and_catches_up(
    storage: SqliteStorage, indexer: IndexerProcess, searcher: Fts5Searcher
) -> None:
    publisher = Publisher(storage)
    await publisher.publish("common 1", "common 2")
    assert await indexer.wait_indexed(2, SOON)
    pid = await _running(indexer)
    os.kill(pid, signal.SIGSTOP)
    try:
        await publisher.publish(*[f"common {n}" for n in range(3, 103)])
        await storage.prune_conversation("chat/a", 3)
        for n in range(20_000):
            indexer.notify(1)
            indexer.forget(f"chat/{'x' * 50}/{n}", 5)
        indexer.forget("chat/a", 3)
        process = indexer._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdin.transport.get_write_buffer_size() < 200_000
        assert indexer.lag().messages >= 20_000
        assert (await searcher.search(Query(q="common "))).total == 2, "searching goes on"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await indexer.wait_indexed(102, SOON)

    async def forgotten() -> bool:
        return await _ids(searcher) == list(range(3, 103))

    await until(forgotten)
    await until(lambda: indexer.lag().messages == 0)


_BROKER = """
import asyncio, json, sys
from plugins.search.process import IndexerProcess
from tests.support.until import until
async def main():
    indexer = IndexerProcess(json.loads(sys.argv[1]))
    indexer.start()
    await until(lambda: indexer._open)
    print(indexer.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_ends_with_a_broker_that_is_killed(storage: SqliteStorage, path: Path) -> None:
    settings = json.dumps(_settings(path))
    broker = await asyncio.create_subprocess_exec(sys.executable, "-c", _BROKER, settings, stdout=asyncio.subprocess.PIPE)
    assert broker.stdout is not None
    async with asyncio.timeout(SOON):
        pid = int(await broker.stdout.readline())
        broker.kill()
        await broker.wait()
    successor = Fts5Engine(path, patience=SOON)
    await successor.open()  # the lock is free: nobody else writes
    await successor.close()
    await until(lambda: not _exists(pid))


@pytest.mark.parametrize("backend", ["sqlite", "mongo"])
async def test_every_store_is_read_beside_its_broker(path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also one whose messages are all gone again: it is not taken for another store."""
    database = mongo_server.new_database()
    url = mongo_server.url(database) if backend == "mongo" else f"sqlite:///{path.with_name('tideline.db')}"
    storage = open_url(url)
    await storage.open()
    publisher, searcher = Publisher(storage), Fts5Searcher(path)
    await searcher.open()
    for round in range(2):
        indexer = IndexerProcess({**_settings(path), "storage": url}, gather=0.0)
        indexer.start()
        await until(lambda indexer=indexer: indexer._open)  # type: ignore[misc]
        await publisher.publish("common one", "会议 two")
        indexer.notify(2, publisher.last)
        assert await indexer.wait_indexed(publisher.last, SOON)
        assert await _ids(searcher, q="会议") == [publisher.last]
        await storage.prune_conversation("chat/a", publisher.last + 1)
        indexer.forget("chat/a", publisher.last + 1)
        await until(lambda: counts(searcher, 0))
        await indexer.stop()
        assert "ahead of the store" not in caplog.text, round
    await searcher.close()
    await storage.close()
    if backend == "mongo":
        await mongo_server.drop(database)


async def test_folders_where_the_broker_was_started_are_not_taken_for_ours(
    storage: SqliteStorage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plugins", "storage", "broker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('somebody else')")
    monkeypatch.chdir(tmp_path)
    indexer = IndexerProcess(_settings(path), gather=0.0)
    indexer.start()
    await Publisher(storage).publish("found")
    assert await indexer.wait_indexed(1, SOON)
    assert indexer.errors == 0
    await indexer.stop()


async def test_a_store_that_is_not_there_is_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What keeps the process from beginning is in the broker's log, and told to who waits for a rebuild."""
    indexer = IndexerProcess(_settings(path), gather=0.0)
    indexer.start()
    seen: list[Progress] = []
    rebuilding = asyncio.create_task(indexer.reindex(seen.append))
    missing = "tideline.db: there is no database"
    await until(lambda: missing in caplog.text)
    await until(lambda: seen and missing in seen[-1].waiting)
    storage = SqliteStorage(path.with_name("tideline.db"))
    await storage.open()
    await Publisher(storage).publish("late")
    assert await indexer.wait_indexed(1, SOON)
    assert await rebuilding == 1
    assert (seen[-1].messages, seen[-1].waiting) == (1, "")
    await indexer.stop()
    await storage.close()


class CountedStorage(SqliteStorage):
    opened = 0

    async def open(self) -> None:
        self.opened += 1
        await super().open()


class CountedEngine(Fts5Engine):
    opened = 0

    async def open(self) -> None:
        self.opened += 1
        await super().open()


async def test_a_worker_that_waits_for_the_index_says_so_once_and_opens_its_store_once(
    storage: SqliteStorage, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all workers of a machine but one do, for as long as that one lives: each try must cost nothing that stays."""
    monkeypatch.setattr(worker_module, "_FIRST_WAIT", 0.01)
    first, second = Fts5Engine(path), CountedEngine(path, patience=0.01)
    own = CountedStorage(path.with_name("tideline.db"), read_only=True)
    await first.open()
    with caplog.at_level(logging.INFO, "tideline.search"):
        opening = asyncio.create_task(worker_module._opened(own, second))
        await until(lambda: second.opened > 3)
        await first.close()
        await opening
    assert own.opened == 1
    assert [(record.levelname, "being written by process" in record.message) for record in caplog.records] == [("INFO", True)]
    await second.close()
    await own.close()


async def test_a_program_that_may_not_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "python"
    program.touch(0o600)
    monkeypatch.setattr(sys, "executable", str(program))
    indexer = IndexerProcess(_settings(tmp_path / "search.db"))
    indexer.start()
    await until(lambda: f"the search indexer cannot be started: {program}: Permission denied" in caplog.text, patience=SOON)
    await indexer.stop()
