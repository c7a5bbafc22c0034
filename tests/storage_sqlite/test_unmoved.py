"""Nothing is acknowledged that goes into a file which nobody will find: one that was removed, or replaced, while it is open."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.records import Append
from storage.sqlite import SqliteStorage, unmoved
from tests.storage.samples import Maker


def later(number: int) -> list[Append]:
    """A message behind those that there are."""
    make = Maker()
    make.id = number
    return make.appends(1)


@pytest.fixture
async def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStorage]:
    """One that looks at its files before each commit, with a message in it."""
    monkeypatch.setattr(unmoved, "_PAUSE", 0.0)
    storage = SqliteStorage(tmp_path / "t.db")
    await storage.open()
    await storage.commit(Maker().appends(1))
    yield storage
    await storage.close()


async def closed_by_an_error(storage: SqliteStorage) -> None:
    """As an I/O error leaves it: the next commit opens the file again."""
    assert storage._writer is not None
    assert storage._write_worker is not None
    await storage._write_worker.run(storage._writer.close)


@pytest.mark.parametrize("name", ["t.db", "t.db-wal"])
async def test_a_file_that_was_removed_is_written_no_more(storage: SqliteStorage, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(StorageUnavailable, match=f"{name} was removed or replaced"):
        await storage.commit(later(1))
    with pytest.raises(StorageUnavailable, match=f"{name} was removed or replaced"):
        await storage.probe()


async def test_a_copy_in_its_place_is_another_file(storage: SqliteStorage, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "t.db", tmp_path / "copy.db")
    (tmp_path / "copy.db").replace(tmp_path / "t.db")
    with pytest.raises(StorageUnavailable, match="was removed or replaced"):
        await storage.commit(later(1))


async def test_the_file_put_back_goes_on(storage: SqliteStorage, tmp_path: Path) -> None:
    group = later(1)
    (tmp_path / "t.db").rename(tmp_path / "away.db")
    with pytest.raises(StorageUnavailable):
        await storage.commit(group)
    (tmp_path / "away.db").rename(tmp_path / "t.db")
    await storage.commit(group)
    assert group[0].message.seq == 2


async def test_another_file_is_not_opened_after_an_error(storage: SqliteStorage, tmp_path: Path) -> None:
    """What is in memory, such as the ends of the timelines, is of the first one."""
    await closed_by_an_error(storage)
    shutil.copy(tmp_path / "t.db", tmp_path / "copy.db")
    (tmp_path / "copy.db").replace(tmp_path / "t.db")
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="was removed or replaced"):
            await storage.commit(later(1))


async def test_a_closed_log_is_not_missed(storage: SqliteStorage, tmp_path: Path) -> None:
    """After an I/O error the file is opened again, with a log of its own."""
    await closed_by_an_error(storage)
    (tmp_path / "t.db-wal").rename(tmp_path / "aside")
    shutil.copy(tmp_path / "aside", tmp_path / "t.db-wal")
    for start in (1, 2):
        await storage.commit(later(start))
