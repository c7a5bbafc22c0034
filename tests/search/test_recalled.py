"""What was recalled leaves the index, and the files of the embedded one; what follows in the tail says so."""

from __future__ import annotations

import hashlib
from pathlib import Path

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


async def test_a_recall_in_the_tail_takes_messages_out(engine: Engine) -> None:
    """Of any engine: what the store says is recalled, and not what a message merely names."""
    storage = MemoryStorage()
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
