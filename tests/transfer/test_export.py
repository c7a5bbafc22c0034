"""Export and import: all of it, from any storage to any other, whole or not at all."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.import_ import read_export
from broker.cli.main import main
from storage.errors import StorageError
from storage.factory import open_source, open_target, open_url
from storage.interface import Storage
from storage.transfer import KINDS, ExportReader, Record
from tests.support import mongo_server
from tests.transfer.crashing import killed_everywhere
from tests.transfer.sample import ANN, BOB, WHOLE, after, contents, exported, filled, imported


@pytest.fixture
async def mongodb() -> AsyncIterator[str]:
    name = mongo_server.new_database()
    yield mongo_server.url(name)
    await mongo_server.drop(name)


async def test_sqlite_to_mongodb_and_back_is_the_same(tmp_path: Path, mongodb: str) -> None:
    first, last = f"sqlite:///{tmp_path}/a/t.db", f"sqlite:///{tmp_path}/b/t.db"
    await filled(first)
    was = await exported(first, tmp_path / "1")
    assert {record[0] for record in was} == KINDS.keys()
    await imported(tmp_path / "1", mongodb)
    assert await exported(mongodb, tmp_path / "2") == was
    await imported(tmp_path / "2", last)
    assert await exported(last, tmp_path / "3") == was


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
async def test_what_was_imported_goes_on(tmp_path: Path, mongodb: str, kind: str) -> None:
    """Sequences go on where they were; the epoch is another one, and a device is not what its client takes it for."""
    origin, url = f"sqlite:///{tmp_path}/a/t.db", f"sqlite:///{tmp_path}/b/t.db" if kind == "sqlite" else mongodb
    await filled(origin)
    await exported(origin, tmp_path / "1")
    await imported(tmp_path / "1", url)
    before, storage = open_url(origin, read_only=True), open_url(url)
    await before.open()
    await storage.open()
    try:
        heads = [("chat/a", 12), ("old/news", 9)]
        for topic, last in heads:
            assert (await storage.conversation_bounds(topic)) == (await before.conversation_bounds(topic))
            assert (await storage.conversation_bounds(topic))[1] == last
        append = after("old/news", ["u/ann", "c/bob"])
        await storage.commit([append])
        assert (append.message.seq, append.inbox_seqs) == (10, [await before.inbox_head("u/ann") + 1, 14])
        now, then = await storage.data_epoch(), await before.data_epoch()
        assert now.id != then.id
        assert (then.restored, now.restored > 0) == (0, True)
        for key in (ANN, BOB):
            device, was = await storage.device(key), await before.device(key)
            assert device is not None
            assert was is not None
            assert (device.restored, device.inflight, device.received) == (True, [], set())
            assert device.epoch > was.epoch
            assert (device.offset, device.subscriptions) == (was.offset, was.subscriptions)
        messages = [m.id for m in await storage.read_conversation("chat/a")]
        tails = await storage.tails()
        assert messages == [m.id for m in (await storage.read_tail_of(0, 0, tails[0], 500)).messages if m.topic == "chat/a"]
    finally:
        await storage.close()
        await before.close()


async def test_it_is_exported_beside_the_broker_that_writes(tmp_path: Path, mongodb: str) -> None:
    """What is committed after an export began is there whole or not at all, on MongoDB too, which has no one moment."""
    await filled(mongodb)
    storage = open_url(mongodb)
    await storage.open()
    try:
        async with open_source(mongodb) as source:
            found = [record async for page in _with_a_message_amid(source.records(), storage) for record in page]
    finally:
        await storage.close()
    entries = [record for record in found if record[0] == "entry" and record[1] == "u/ann"]
    late = after("chat/a", []).message.id
    assert [record[2] for record in entries] == list(range(1, len(entries) + 1))
    assert sum(record[3] == late for record in entries) == 1
    assert sum(record[0] == "message" and record[3] == late for record in found) == 1


async def _with_a_message_amid(pages: AsyncIterator[list[Record]], storage: Storage) -> AsyncIterator[list[Record]]:
    """The pages, with a message that is stored once the inboxes were read and the conversations were not."""
    stored = False
    async for page in pages:
        if page and page[0][0] == "conversation" and not stored:
            stored = True
            await storage.commit([after("chat/a", ["u/ann"])])
        yield page


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
async def export_file(tmp_path: Path) -> Path:
    await filled(f"sqlite:///{tmp_path}/a/tideline.db")
    await exported(f"sqlite:///{tmp_path}/a/tideline.db", tmp_path / "whole")
    return tmp_path / "whole"


def test_a_file_that_was_cut_off_or_changed_is_refused(export_file: Path) -> None:
    """Wherever: nothing of it counts, and nothing is left of the attempt."""
    folder, whole = export_file.parent, export_file.read_bytes()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    broken = {
        "nothing": b"",
        "no gzip": b"hello\n" * 100,
        "half": whole[: len(whole) // 2],
        "no end": gzip.compress(b"".join(lines[:-1])),
        "one line less": gzip.compress(b"".join(lines[:5] + lines[6:])),
        "another letter": gzip.compress(b"".join(lines).replace(b"old/news", b"old/mews", 1)),
        "a bit": whole[:200] + bytes([whole[200] ^ 4]) + whole[201:],
        "another program's": gzip.compress(b'{"a": 1}\n'),
        "a later format": gzip.compress(lines[0].replace(b'export":1', b'export":9') + b"".join(lines[1:])),
    }
    for name, data in broken.items():
        (folder / "broken").write_bytes(data)
        code, said = _run("import", str(folder / "broken"), "--data", str(folder / "b"))
        assert (code, "nothing was imported" in said) == (1, True), (name, said)
        assert not (folder / "b" / "tideline.db").exists(), name
        assert {path.name for path in (folder / "b").glob("*")} <= {"tideline.db.lock"}, name


def test_import_says_why_not(export_file: Path) -> None:
    folder = export_file.parent
    for arguments, code, words in [
        (("export", str(export_file), "--data", str(folder / "a")), 1, "is there already"),
        (("export", str(folder / "x"), "--data", str(folder / "none")), 3, "there is no database"),
        (("export", str(folder / "x"), "--url", "memory://"), 3, "keeps nothing"),
        (("import", str(export_file), "--data", str(folder / "a")), 3, "is not empty (it has store,"),
        (("import", str(folder / "none")), 2, "does not exist"),
        (("import", str(export_file), "--url", "redis://x"), 3, "must be sqlite:// or mongodb://"),
    ]:
        found = _run(*arguments)
        assert (found[0], words in found[1]) == (code, True), found
    assert _run("export", str(folder / "again"), "--data", str(folder / "a"))[0] == 0


async def test_a_served_database_and_one_with_a_gap_are_told_of(export_file: Path) -> None:
    folder = export_file.parent
    serving = open_url(f"sqlite:///{folder}/c/t.db")
    await serving.open()
    with pytest.raises(StorageError, match="is served by another broker"):
        await imported(export_file, f"sqlite:///{folder}/c/t.db")
    await serving.close()
    await imported(export_file, f"sqlite:///{folder}/c/t.db")  # it is empty, and is filled
    with sqlite3.connect(folder / "c" / "t.db") as damaged:
        damaged.execute("DELETE FROM store WHERE seq = 5")
    with pytest.raises(ValueError, match="'chat/a' has a gap: 6 follows 4"):
        await exported(f"sqlite:///{folder}/c/t.db", folder / "gap")
    assert not (folder / "gap").exists()
    assert not (folder / "gap.part").exists()


def test_an_import_that_is_killed_leaves_no_database(export_file: Path) -> None:
    found = killed_everywhere(export_file.parent, "b/tideline.db", "import", "whole", "--data", "b")
    before = found.index(WHOLE)
    assert before > 3
    assert found == [[]] * before + [WHOLE] * (len(found) - before)


async def test_an_unfinished_import_into_mongodb_is_refused_and_begun_anew(export_file: Path, mongodb: str) -> None:
    """Killed, it is what is there without its end."""
    with ExportReader(export_file) as reader:
        async with open_target(mongodb) as target:
            for page in reader.records():
                await target.write(page)
    for storage in (open_url(mongodb), open_url(mongodb, read_only=True)):
        with pytest.raises(StorageError, match="begun and not ended"):
            await storage.open()
        await storage.close()
    with pytest.raises(StorageError, match="begun and not ended"):
        await exported(mongodb, export_file.parent / "part")
    with pytest.raises(StorageError, match="an import is under way; if it ended, on another machine, say --anew"):
        await imported(export_file, mongodb)
    async with open_target(mongodb, anew=True):  # as one does whose process is known to have ended
        pass
    await read_export(export_file, mongodb, anew=True)
    assert len(await exported(mongodb, export_file.parent / "again")) == len(contents(export_file))
