"""The bytes of what was recalled are in no file: neither the database, its free pages nor its log, also after a SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.records import DropRow, PutRow
from storage.sqlite import SqliteStorage
from storage.sqlite.connection import connect_reader
from tests.storage.samples import Maker
from tests.support.until import until

ROOT = Path(__file__).parents[2]
SIZES = (20, 500, 9000)


def secret(number: int) -> bytes:
    return b"<secret-%04d>" % number


def found_in(path: Path, numbers: range) -> list[int]:
    """Which of the secrets are in any file of the database's folder."""
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    return [number for number in numbers if secret(number) in content]


async def fill(storage: SqliteStorage, make: Maker, count: int) -> list[int]:
    """Messages of several sizes with secrets, which are retained, replaced, and given to inboxes; their ids."""
    ids = []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        payload = secret(number) * (size // len(secret(0)) + 1)
        properties = b"\x26\x00\x01k" + len(secret(number)).to_bytes(2, "big") + secret(number)
        append = make.append("a", ["u/ann", "u/bob"], payload, retain=number % 4 == 0, properties=properties)
        await storage.commit([append, make.append(f"b/{number % 7}", ["u/ann"], b"kept" * (number % 300))])
        ids.append(append.message.id)
    return ids


async def test_what_was_recalled_is_in_no_file(tmp_path: Path) -> None:
    """Neither the payloads nor the properties, while the storage is open and while others write. The log ends empty."""
    path = tmp_path / "tideline.db"
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    ids = await fill(storage, make, 60)
    numbers = range(60)
    assert found_in(path, numbers) == list(numbers)
    for start in range(0, 60, 7):
        await storage.commit([make.append("a", ["u/ann"], b"", recalls=ids[start : start + 7])])
    await until(lambda: not found_in(path, numbers), lambda: f"in a file: {found_in(path, numbers)}")
    assert (await storage.read_conversation("b/1", limit=3))[2].payload.startswith(b"kept")
    await storage.close()


async def test_it_leaves_the_log_once_nobody_reads_there(tmp_path: Path) -> None:
    """A long read, as a backup makes, sees what was there before; the log is cut after it, and commits do not wait for it."""
    path = tmp_path / "tideline.db"
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    ids = await fill(storage, make, 3)
    reader = connect_reader(path, 1.0)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM store").fetchall()
    await storage.commit([make.append("a", [], b"", recalls=ids)])
    await storage.commit([make.append("a")])
    assert found_in(path, range(3))
    reader.execute("COMMIT")
    reader.close()
    await until(lambda: not found_in(path, range(3)), "gone from the log")
    await storage.close()


async def test_what_rows_had_leaves_the_files_where_it_is_asked_for(tmp_path: Path) -> None:
    """Also what a commit before removed, and what took the place of something else."""
    path = tmp_path / "tideline.db"
    storage = SqliteStorage(path)
    await storage.open()
    for number in range(9):
        await storage.commit([PutRow("drafts", "u/ann", f"{number % 6}", secret(number) * 20)])
    await storage.commit([DropRow("drafts", "u/ann", f"{number}") for number in range(6)])
    assert found_in(path, range(9))
    await storage.commit([PutRow("erasures", "", "u/ann", b"done", purges=True)])
    await until(lambda: not found_in(path, range(9)), lambda: f"in a file: {found_in(path, range(9))}")
    await storage.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_process_leaves_it_gone_once_it_is_opened_again(tmp_path: Path, when: str) -> None:
    """Killed as soon as the recall was durable (``after``), or with it still to come: then it is repeated."""
    path = tmp_path / "tideline.db"
    child = subprocess.Popen([sys.executable, "-m", __name__, str(path), when], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert found_in(path, range(6))

    async def open_again() -> None:
        make, storage = Maker(), SqliteStorage(path)
        await storage.open()
        if when == "before":
            ids = [message.id for message in await storage.read_conversation("a")]
            make.id = await storage.last_id()
            await storage.commit([make.append("a", [], b"", recalls=ids)])
        await until(lambda: not found_in(path, range(6)), lambda: f"in a file: {found_in(path, range(6))}")
        assert all(message.recalled or not message.payload for message in await storage.read_conversation("a"))
        await storage.close()

    asyncio.run(open_again())


async def _child(path: str, when: str) -> None:
    make, storage = Maker(), SqliteStorage(path)
    await storage.open()
    # A reader keeps the log from being cut before the parent has killed this process.
    ids = await fill(storage, make, 6)
    reader = connect_reader(Path(path), 1.0)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM store").fetchall()
    if when == "after":
        await storage.commit([make.append("a", [], b"", recalls=ids)])
    os.write(1, b"ready\n")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_child(*sys.argv[1:]))
