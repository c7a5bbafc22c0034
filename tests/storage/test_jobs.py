"""The state of jobs: saved with a group, replaced by name, and there after a restart."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from storage.interface import Jobs, Storage
from storage.records import JobState, SaveJob
from storage.sqlite import SqliteStorage
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tests.storage.backends import Backend
from tests.storage.samples import START, Maker

SWEEP = JobState("sweep", "1h", START + 5, START, START + 1, "done", '{"removed": 3}')


@pytest.fixture
def state(storage: Storage) -> Any:
    assert isinstance(storage, Jobs)
    return cast(Any, storage)


async def test_a_job_is_what_was_saved_last_of_it(state: Any, make: Maker) -> None:
    assert await state.jobs() == []
    await state.commit([SaveJob(SWEEP), make.append(), SaveJob(JobState("prune"))])
    assert await state.jobs() == [JobState("prune"), SWEEP]
    later = SWEEP._replace(next_run=START + 9, outcome="failed")
    await state.commit([SaveJob(SWEEP), SaveJob(later)])
    assert await state.jobs() == [JobState("prune"), later]


async def test_jobs_survive_a_restart(durable: Backend) -> None:
    storage = await durable.open()
    await storage.commit([SaveJob(SWEEP)])
    again = cast(Any, await durable.reopen(storage))
    try:
        assert await again.jobs() == [SWEEP]
    finally:
        await again.close()


async def test_a_file_from_before_there_were_jobs_is_read_as_it_is_and_migrated_by_the_broker(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(f"{MIGRATIONS[0]} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=1;")
    for read_only, expected in ((True, []), (False, [SWEEP]), (True, [SWEEP])):
        storage = SqliteStorage(path, read_only=read_only)
        await storage.open()
        if not read_only:
            await storage.commit([SaveJob(SWEEP)])
        assert await storage.jobs() == expected
        await storage.close()
