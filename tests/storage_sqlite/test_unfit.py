"""A database that this user may not read or write, or that is none: one line, with the path, whose it is, and what to do."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import StorageUnusable
from storage.sqlite import SqliteStorage
from tests.support.unprivileged import NOBODY, no_privileges

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is the other user's, in one that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = Path(name, "data")
        made.mkdir(mode=0o755)
        if os.geteuid() == 0:
            os.chown(made, NOBODY, NOBODY)
        yield made


async def opened(path: Path) -> None:
    storage = SqliteStorage(path)
    await storage.open()
    await storage.close()


def made(folder: Path) -> Path:
    """A database there, of who runs the tests."""
    asyncio.run(opened(folder / "t.db"))
    return folder / "t.db"


def told(path: Path) -> str:
    """What a user without privileges is told who opens it."""
    with no_privileges(), pytest.raises(StorageUnusable) as refused:
        asyncio.run(opened(path))
    return str(refused.value)


@only_root
@pytest.mark.parametrize("beside", ["", "-wal", "-shm"])
def test_a_file_of_another_user(folder: Path, beside: str) -> None:
    """Such as a log that a command left which root ran."""
    path = made(folder)
    for other in folder.iterdir():
        os.chown(other, NOBODY, NOBODY)
    file = Path(f"{path}{beside}")
    file.touch()
    os.chown(file, 0, 0)
    for mode, right in ((0o600, "read"), (0o644, "written")):
        file.chmod(mode)
        said = told(path)
        assert said.startswith(
            f"{file} cannot be {right}: Permission denied; {file} belongs to root, and this is nobody: run it"
        )


@only_root
def test_a_file_whose_mode_keeps_its_own_user_out(folder: Path) -> None:
    path = made(folder)
    for other in folder.iterdir():
        os.chown(other, NOBODY, NOBODY)
    path.chmod(0o440)
    assert told(path) == f"{path} cannot be written: Permission denied; {path} has the mode 0440: chmod u+rw {path}"


def test_a_folder_whose_mode_keeps_its_own_user_out(folder: Path) -> None:
    made(folder.parent)  # all of it is imported
    folder.chmod(0o555)
    path = folder / "t.db"
    assert told(path) == f"{path}.lock cannot be written: Permission denied; {folder} has the mode 0555: chmod u+rwx {folder}"


def test_a_file_where_its_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StorageUnusable, match=f"Not a directory; {tmp_path}/data is a file, where a folder belongs$"):
        asyncio.run(opened(tmp_path / "data" / "t.db"))


@pytest.mark.parametrize("beside", ["", "-wal", ".lock"])
def test_a_directory_where_a_file_belongs(tmp_path: Path, beside: str) -> None:
    path = made(tmp_path)
    file = Path(f"{path}{beside}")
    file.unlink(missing_ok=True)
    file.mkdir()
    with pytest.raises(StorageUnusable, match=f"{file}.* is a directory.*move it away"):
        asyncio.run(opened(path))
