"""`tideline backup` and `restore`: a copy beside the broker that writes, and in the place of the data by one step."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from broker.cli.main import main
from storage.factory import open_url
from storage.records import DataEpoch
from tests.support import mongo_server
from tests.support.broker import running
from tests.transfer.crashing import killed_everywhere
from tests.transfer.sample import WHOLE, after, conversations, filled, imported


async def run(*arguments: object) -> tuple[int, str]:
    """A command, its exit code and what it said, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(_run, *arguments)


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


async def epoch(url: str) -> DataEpoch:
    storage = open_url(url, read_only=True)
    await storage.open()
    try:
        return await storage.data_epoch()
    finally:
        await storage.close()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """./data as `sample.fill` makes it, its backup ./b.db, and one message that came after that."""
    url = f"sqlite:///{tmp_path}/data/tideline.db"
    await filled(url)
    assert (await run("backup", tmp_path / "b.db", "--data", tmp_path / "data"))[0] == 0
    storage = open_url(url)
    await storage.open()
    await storage.commit([after("chat/a", ["u/ann"])])
    await storage.close()
    return tmp_path


NOW = ["chat/a 3-13", *WHOLE[1:]]


async def test_what_was_backed_up_is_there_again_and_what_was_there_is_kept(folder: Path) -> None:
    data = folder / "data" / "tideline.db"
    (folder / "data" / "search.db").write_bytes(b"an index of what is not there any more")
    before = await epoch(f"sqlite:///{data}")
    code, said = await run("restore", folder / "b.db", "--data", folder / "data")
    assert code == 0, said
    assert await conversations(data) == WHOLE
    now = await epoch(f"sqlite:///{data}")
    assert (now.id != before.id, now.restored > 0) == (True, True)
    assert not (folder / "data" / "search.db").exists()
    (aside,) = (folder / "data").glob("tideline.db.before-*")
    assert str(aside) in said
    assert await conversations(aside) == NOW


async def test_a_folder_that_is_not_there_is_not_made_a_file(folder: Path) -> None:
    """Each later backup "into" it would fail, and what removes old ones there would find none."""
    for command in ("backup", "export"):
        code, said = await run(command, f"{folder}/backups/", "--data", folder / "data")
        assert (code, "there is no folder" in said) == (2, True), said
    assert not (folder / "backups").exists()
    assert (await run("export", f"{folder}/e", "--data", f"{folder}/data/"))[0] == 0


@pytest.mark.parametrize(
    ("options", "where"),
    [("{}", "{data}/attachments"), ("{directory: files}", "files"), ("{s3: {bucket: files}}", "their bucket"), (None, "")],
)
async def test_who_copies_the_data_is_told_of_attachments(options: str | None, where: str, folder: Path) -> None:
    """Their bytes are in no copy of the database."""
    config = folder / "c.yaml"
    config.write_text("plugins: {sys: {}}" if options is None else f"plugins: {{attachments: {options}}}")
    place = ("--data", folder / "data", "--config", config)
    for command in (("backup", folder / "c.db"), ("export", folder / "c.exp"), ("restore", folder / "c.exp")):
        code, said = await run(*command, *place)
        assert code == 0, said
        assert (f"in {where.format(data=folder / 'data')}:" in said) == bool(where), said
        assert ("attachments" in said) == bool(where)


async def test_an_index_that_cannot_be_removed_is_told_and_the_data_is_in_place(folder: Path) -> None:
    (folder / "data" / "search.db").mkdir()
    code, said = await run("restore", folder / "b.db", "--data", folder / "data")
    assert code == 1
    assert "the data is in place, but" in said
    assert f"{folder}/data/search.db" in said
    assert await conversations(folder / "data" / "tideline.db") == WHOLE


async def test_an_export_is_restored_too(folder: Path) -> None:
    assert (await run("export", folder / "e", "--url", f"sqlite:///{folder}/b.db"))[0] == 0
    code, said = await run("restore", folder / "e", "--data", folder / "data")
    assert code == 0, said
    assert await conversations(folder / "data" / "tideline.db") == WHOLE
    aside = said.partition("what was there is ")[2].partition(": ")[0]
    assert await conversations(Path(aside)) == NOW


async def test_what_is_no_whole_backup_leaves_the_data_as_it_was(folder: Path) -> None:
    whole, beside = (folder / "b.db").read_bytes(), folder / "b.db.sha256"
    other = folder / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE x (y)")
    others = other.read_bytes()
    for data, checksum, words in [
        (whole[:-4096], beside.read_text(), "is damaged"),
        (whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:], beside.read_text(), "is damaged"),
        (whole, "", "is damaged"),
        (others, hashlib.sha256(others).hexdigest(), "belongs to another program"),
        (b"hello", hashlib.sha256(b"hello").hexdigest(), "not a database"),
    ]:
        (folder / "b.db").write_bytes(data)
        beside.write_text(checksum)
        code, said = await run("restore", folder / "b.db", "--data", folder / "data")
        assert (code, words in said, "the data is as it was" in said) == (3, True, True), said
    beside.unlink()
    assert "is missing" in (await run("restore", folder / "b.db", "--data", folder / "data"))[1]
    assert await conversations(folder / "data" / "tideline.db") == NOW
    assert not list((folder / "data").glob("*.before-*"))
    assert not list((folder / "data").glob("*.restore*"))


def test_a_restore_that_is_killed_leaves_the_old_data_or_the_new(folder: Path) -> None:
    found = killed_everywhere(folder, "data/tideline.db", "restore", "b.db", "--data", "data")
    before = found.index(WHOLE)
    assert before > 3
    assert found == [NOW] * before + [WHOLE] * (len(found) - before)


async def test_a_backup_is_made_beside_the_broker_that_writes(tmp_path: Path) -> None:
    """Of one moment: what is acknowledged before is in it, and it is whole. What serves is not restored into."""
    url = f"sqlite:///{tmp_path}/data/tideline.db"
    async with running(url) as broker:
        client = await broker.client("publisher")
        for _ in range(20):
            await client.publish("chat/a", bytes(5000))
        making = asyncio.create_task(run("backup", tmp_path, "--data", tmp_path / "data"))
        while not making.done():
            await client.publish("chat/a", bytes(5000))
        code, said = making.result()
        assert code == 0, said
        copy = Path(said.splitlines()[-1].partition(": ")[0])
        assert (await run("restore", copy, "--data", tmp_path / "data"))[0] == 3
        ((last,),) = await asyncio.to_thread(_rows, copy, "SELECT max(seq) FROM store")
        assert last >= 20
        assert await asyncio.to_thread(_rows, copy, "PRAGMA integrity_check") == [("ok",)]
        await client.leave()


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
async def mongodb() -> AsyncIterator[str]:
    name = mongo_server.new_database()
    yield mongo_server.url(name)
    await mongo_server.drop(name)


async def test_of_mongodb_it_is_an_export(folder: Path, mongodb: str) -> None:
    assert "tideline export --url" in (await run("restore", folder / "b.db", "--url", mongodb))[1]
    assert (await run("export", folder / "e", "--data", folder / "data"))[0] == 0
    await imported(folder / "e", mongodb)
    assert (await run("backup", folder / "m", "--url", mongodb))[0] == 0
    code, said = await run("restore", folder / "m", "--url", mongodb)
    assert (code, "is not empty" in said) == (3, True), said
    assert (await run("restore", folder / "m", "--data", folder / "again"))[0] == 0
    assert await conversations(folder / "again" / "tideline.db") == NOW
