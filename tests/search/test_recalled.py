"""What was recalled leaves the index, and the files of the embedded one; what follows in the tail says so."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from pathlib import Path

import pytest

import plugins.search.fts5_index as fts5_index
from plugins.search.engine import Document, Engine, Query
from plugins.search.fts5 import Fts5Engine
from plugins.search.indexer import Indexer
from storage.memory import MemoryStorage
from storage.sqlite import SqliteStorage
from tests.storage.samples import Maker
from tests.support.until import until


def word(number: int) -> str:
    """One of which hardly anything is another's beginning, so that FTS5 writes it out."""
    return "".join(chr(97 + byte % 26) for byte in hashlib.sha256(b"%d" % number).digest()[:20])


def found_in(path: Path, numbers: range) -> list[int]:
    """Which of the words are in any file of the index."""
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    return [number for number in numbers if word(number)[4:].encode() in content]


async def test_the_words_of_deleted_messages_are_in_no_file(tmp_path: Path) -> None:
    """Also where it is closed between two steps, and where messages come meanwhile; the words of others stay."""
    path = tmp_path / "search" / "search.db"
    engine = Fts5Engine(path)
    await engine.open()
    texts = [f"{word(n)} common words here" for n in range(300)]
    documents = [Document(n + 1, "t", n + 1, "u/ann", "phone", 1000 + n, text) for n, text in enumerate(texts)]
    for start in range(0, 300, 20):
        await engine.index(documents[start : start + 20], {0: start + 20})
    assert len(found_in(path, range(300))) == 300
    await engine.delete(range(1, 101))
    await engine.purge()
    await engine.close()
    engine = Fts5Engine(path)
    await engine.open()
    more = Document(301, "t", 301, "u/ann", "phone", 2000, word(300))
    await engine.index([more], {0: 301})
    while await engine.purge():
        pass
    assert found_in(path, range(100)) == []
    assert len(found_in(path, range(100, 301))) == 201
    assert (await engine.search(Query("common"))).total == 200
    assert [hit.id for hit in (await engine.search(Query(word(150)))).hits] == [151]
    assert not await engine.purge()
    await engine.close()


async def test_the_words_of_what_retention_removed_leave_once_it_is_deleted_too(tmp_path: Path) -> None:
    """It goes first where the recall of it is read then, or where it was erased. Till then nothing is merged for it."""
    path = tmp_path / "search" / "search.db"
    engine = Fts5Engine(path)
    await engine.open()
    documents = [Document(n + 1, "t", n + 1, "u/ann", "phone", 1000 + n, word(n)) for n in range(20)]
    for start in range(0, 20, 10):
        await engine.index(documents[start : start + 10], {0: start + 10})
    await engine.forget("t", 11)
    await engine.delete([21])
    while await engine.purge():
        pass
    assert found_in(path, range(20)) == list(range(10, 20))
    await engine.forget("t", 12)
    while await engine.purge():
        pass
    assert found_in(path, range(20)) == list(range(10, 20)), "else it is merged each time"
    await engine.close()
    engine = Fts5Engine(path)
    await engine.open()
    await engine.delete([11, 12])
    while await engine.purge():
        pass
    assert found_in(path, range(20)) == list(range(12, 20))
    await engine.delete([1])
    assert not await engine.purge(), "nothing is left of what was removed"
    await engine.close()


async def test_a_purge_comes_to_its_end_though_more_is_deleted_between_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fts5_index, "_MERGED", 4)
    path = tmp_path / "search" / "search.db"
    engine = Fts5Engine(path)
    await engine.open()
    documents = [Document(n + 1, "t", n + 1, "u/ann", "phone", 1000 + n, word(n)) for n in range(800)]
    for start in range(0, 800, 40):
        await engine.index(documents[start : start + 40], {0: start + 40})
    deleted = 0
    while not deleted or found_in(path, range(10)):
        assert deleted < 700, "it begins again and again"
        await engine.delete(range(deleted + 1, deleted + 11))
        deleted += 10
        await engine.purge()
    while await engine.purge():
        pass
    assert found_in(path, range(deleted)) == []
    await engine.close()


async def test_what_was_deleted_while_an_index_is_built_is_not_in_it_either(tmp_path: Path) -> None:
    """Though what was deleted before the new one is in use has left the old one's tables by then."""
    path = tmp_path / "search" / "search.db"
    engine = Fts5Engine(path)
    await engine.open()
    rebuild = await engine.rebuild()
    for number in range(8):
        document = Document(number + 1, "t", number + 1, "u/ann", "phone", 1000 + number, word(number))
        for into in (engine, rebuild):
            await into.index([document], {0: number + 1})
    for into in (engine, rebuild):
        await into.delete([1, 2, 3])
    while await engine.purge():
        pass
    await rebuild.swap()
    while await engine.purge():
        pass
    assert found_in(path, range(8)) == [3, 4, 5, 6, 7]
    await engine.close()


async def test_a_recall_is_not_passed_before_it_is_done(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the indexer ends between the two, as one that is killed does, the next one takes the message out."""
    storage, make = MemoryStorage(), Maker()
    secret = make.append("t", payload=b"the xylophonequartz secret")
    await storage.commit([secret])
    begun, never = asyncio.Event(), asyncio.Event()

    async def broken_off(ids: Collection[int]) -> None:
        begun.set()
        await never.wait()

    with monkeypatch.context() as patch:
        patch.setattr(engine, "delete", broken_off)
        indexer = Indexer(storage, engine, gather=0.0, poll=0.01, yields=False)
        indexer.start()
        await until(lambda: indexer.positions.get(0) == secret.message.id)
        named = b"\x26\x00\x10tideline-recalls\x00\x10%016x" % secret.message.id
        await storage.commit([make.append("t", payload=b"", properties=named, recalls=[secret.message.id])])
        await begun.wait()
        await indexer.stop()
    indexer = Indexer(storage, engine, gather=0.0, poll=0.01, yields=False)
    indexer.start()
    await until(lambda: indexer.positions.get(0) == make.id)
    assert (await engine.search(Query("xylophonequartz"))).total == 0
    await indexer.stop()


@pytest.fixture
def storage() -> MemoryStorage:
    """The store that an engine reads again, too."""
    return MemoryStorage()


async def test_a_recall_in_the_tail_takes_messages_out(storage: MemoryStorage, engine: Engine) -> None:
    """Of any engine: what the store says is recalled, and not what a message merely names."""
    await _recalled(storage, engine)


async def test_the_indexer_leaves_nothing_of_it_in_its_files(tmp_path: Path) -> None:
    storage, engine = SqliteStorage(tmp_path / "tideline.db"), Fts5Engine(tmp_path / "search" / "search.db")
    await storage.open()
    await engine.open()
    await _recalled(storage, engine)
    indexer = Indexer(
        storage, engine, gather=0.0, poll=0.01, yields=False
    )  # the one before may have ended before it came to it
    indexer.start()
    await until(lambda: b"xylophonequartz" not in b"".join(f.read_bytes() for f in (tmp_path / "search").iterdir()))
    await indexer.stop()
    await engine.close()
    await storage.close()


async def _recalled(storage: MemoryStorage | SqliteStorage, engine: Engine) -> None:
    make = Maker()
    secret, kept = make.append("t", payload=b"the xylophonequartz secret"), make.append("t", payload=b"the other one")
    await storage.commit([secret, kept])
    indexer = Indexer(storage, engine, gather=0.0, poll=0.01, yields=False)
    indexer.start()
    try:
        await until(lambda: indexer.positions.get(0) == kept.message.id)
        assert (await engine.search(Query("xylophonequartz"))).total == 1
        for target, recalls in ((secret.message.id, [secret.message.id]), (kept.message.id, [])):
            named = b"\x26\x00\x10tideline-recalls\x00\x10%016x" % target
            await storage.commit([make.append("t", payload=b"", properties=named, recalls=recalls)])
        indexer.notify(2)
        await until(lambda: indexer.positions.get(0) == make.id)
        assert (await engine.search(Query("xylophonequartz"))).total == 0
        assert (await engine.search(Query("other"))).total == 1
    finally:
        await indexer.stop()
