"""What only the index on tantivy has: words that leave its segments, writers that fail, prefixes of very many words."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tantivy")

import plugins.search.tantivy_index as tantivy_index
from plugins.search.compare import documents
from plugins.search.engine import Document, Query, SearchUnavailable, SearchUnusable
from plugins.search.indexer import Indexer
from plugins.search.own_files import own_engine
from plugins.search.plugin import SearchPlugin
from plugins.search.process import IndexerProcess
from plugins.search.tantivy_engine import TantivyEngine
from storage.memory import MemoryStorage
from storage.sqlite import SqliteStorage
from tests.search.corpus import START
from tests.search.stores import Publisher
from tests.search.test_recalled import word
from tests.storage.samples import Maker
from tests.support.until import until


def words_of(folder: Path) -> set[str]:
    """Every word in the dictionary of any segment, those of deleted messages too."""
    (generation,) = (path for path in folder.iterdir() if path.is_dir())
    index = tantivy_index.opened(generation)
    index.reload()
    return {found for found, _ in index.searcher().terms_with_prefix("body", "")}


def strays(folder: Path) -> list[str]:
    """Files of no segment."""
    (generation,) = (path for path in folder.iterdir() if path.is_dir())
    segments = json.loads((generation / "meta.json").read_text())["segments"]
    known = {segment["segment_id"].replace("-", "") for segment in segments} | {"meta", "tideline", ""}
    return [path.name for path in generation.iterdir() if path.name.partition(".")[0] not in known]


async def _filled(engine: TantivyEngine, publisher: Publisher, count: int, page: int) -> None:
    for start in range(0, count, page):
        messages = await publisher.publish(*[f"{word(n)} common words here" for n in range(start, start + page)])
        stored = await publisher.storage.read_messages([message.id for message in messages])
        await engine.index(documents(stored), {0: publisher.last})


async def _purged(engine: TantivyEngine) -> None:
    while await engine.purge():
        pass
    assert strays(engine._folder) == []


@pytest.mark.parametrize("page", [20, 300])
async def test_the_words_of_deleted_messages_are_in_no_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Also where it is closed between two steps, and where messages come meanwhile; the words of others stay."""
    monkeypatch.setattr(tantivy_index, "_REWRITTEN", 7)
    monkeypatch.setattr(tantivy_index, "_LOOKED_AT", 16)
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 300, page)
    gone = [*range(1, 300, 11), *range(200, 260)]
    await engine.delete(gone)
    assert word(0) in words_of(folder), "else tantivy forgets by itself, and all of this may go"
    assert await engine.purge()
    await engine.close()
    engine = TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 1, 1)  # with the words of the first one, which may stay
    await _purged(engine)
    kept = {word(n - 1) for n in range(1, 301) if n not in gone} | {word(0)}
    assert words_of(folder) == kept | {"common", "words", "here"}
    assert (await engine.search(Query("common"))).total == len(kept)
    assert [hit.id for hit in (await engine.search(Query(word(150)))).hits] == [151]
    assert not await engine.purge()
    await engine.close()


async def test_a_segment_of_deleted_messages_alone_goes(tmp_path: Path) -> None:
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 40, 20)
    await engine.delete(range(1, 41))
    await _purged(engine)
    assert words_of(folder) == set()
    assert await engine.count() == 0
    await engine.close()


async def test_where_words_are_left_is_durable_before_their_messages_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave the words, and nobody who looks for them."""
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 10, 10)
    (generation,) = (path for path in folder.iterdir() if path.is_dir())
    committed = (generation / "meta.json").read_text()
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        fsync(file)
        synced.append((os.fstat(file).st_ino, (generation / "meta.json").read_text() == committed))

    monkeypatch.setattr(os, "fsync", noted)
    await engine.delete([3])
    assert json.loads((generation / "tideline.json").read_text())["due"]
    assert synced == [((generation / "tideline.json").stat().st_ino, True), (generation.stat().st_ino, True)]
    assert (generation / "meta.json").read_text() != committed
    await engine.close()


async def test_the_indexer_has_recalled_words_leave(tmp_path: Path) -> None:
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await publisher.publish("the xylophonequartz secret", "the other one")
    indexer = Indexer(storage, engine, gather=0.0, poll=0.01, yields=False)
    indexer.start()
    assert await indexer.wait_indexed(2, 10)
    await engine.delete([1])
    indexer._purges = True
    await until(lambda: not indexer._purges and "xylophonequartz" not in words_of(folder))
    assert (await engine.search(Query("other"))).total == 1
    await indexer.stop()
    await engine.close()


async def test_a_process_indexes_what_the_broker_searches(tmp_path: Path) -> None:
    """Over a store in a file: found, recalled, built again, and gone on with after a kill."""
    storage, folder = SqliteStorage(tmp_path / "tideline.db"), tmp_path / "search.tantivy"
    await storage.open()
    options = SearchPlugin.Config(engine="tantivy", path=str(tmp_path / "search.db"), gather=0.0, poll=0.05)
    plugin = SearchPlugin(SimpleNamespace(config=options))
    make = Maker()
    await plugin.attach(storage, f"sqlite:///{tmp_path / 'tideline.db'}")
    secret = make.append("t", payload=b"the xylophonequartz secret")
    await storage.commit([secret, make.append("t", payload=b"the other one")])
    assert await plugin.wait_indexed(make.id, 60)
    assert (await plugin.search(Query("xylophonequartz"))).total == 1
    assert "xylophonequartz" in words_of(folder)
    named = b"\x26\x00\x10tideline-recalls\x00\x10%016x" % secret.message.id
    await storage.commit([make.append("t", payload=b"", properties=named, recalls=[secret.message.id])])
    await until(lambda: "xylophonequartz" not in words_of(folder))
    assert (await plugin.search(Query("other"))).total == 1
    rebuilding = plugin.begin_reindex()
    await until(lambda: rebuilding.ended)
    assert rebuilding.state == "done"
    assert isinstance(plugin.indexer, IndexerProcess)
    assert plugin.indexer.pid
    os.kill(plugin.indexer.pid, signal.SIGKILL)
    await storage.commit([make.append("t", payload=b"and another")])
    assert await plugin.wait_indexed(make.id, 60)
    found = (await plugin.search(Query("other"))).hits
    assert [hit.message.payload for hit in found] == [b"the other one"]
    assert (await plugin.search(Query("another"))).total == 1
    await plugin.close()
    await storage.close()


async def test_what_a_commit_could_not_write_is_written_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: neither the messages nor the position are there, and then both are, once."""
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    batch = [Document(n, "t", n, "u/a", "d", START + n, "common") for n in range(1, 4)]
    writer = tantivy_index.Generation.writer.fget  # type: ignore[attr-defined]

    class Full:
        def __init__(self, real: Any) -> None:
            self.add_document = real.add_document

        def commit(self) -> None:
            raise ValueError("Internal error: 'No space left on device (os error 28)'")

    with monkeypatch.context() as patch:
        patch.setattr(tantivy_index.Generation, "writer", property(lambda self: Full(writer(self))))
        with pytest.raises(SearchUnavailable, match="No space left"):
            await engine.index(batch, {0: 3})
    assert (await engine.count(), await engine.positions()) == (0, {})
    await engine.index(batch, {0: 3})
    assert (await engine.count(), await engine.positions()) == (3, {0: 3})
    await engine.close()


async def test_words_that_begin_alike_may_be_very_many(tmp_path: Path) -> None:
    """tantivy gives up at 16,384, or, asked otherwise, leaves out all but fifty."""
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    texts = ["AB-17 here", *(f"1x{n}" for n in range(17_000)), "AB 17"]
    batch = [Document(n, "t", n, "u/a", "d", START + n, text) for n, text in enumerate(texts, 1)]
    await engine.index(batch, {0: len(batch)})
    assert [hit.id for hit in (await engine.search(Query("ab-1"))).hits] == [len(batch), 1]
    assert (await engine.search(Query("1"))).exact is False
    await engine.close()


async def test_relevance_is_what_a_message_itself_has(tmp_path: Path) -> None:
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    texts = ["meetings today", "meeting meeting today", "meeting today", "meeting in a text that goes on for long", "meetings"]
    batch = [Document(n, "t", n, "u/a", "d", START + n, text) for n, text in enumerate(texts, 1)]
    await engine.index(batch, {0: 5})
    assert [hit.id for hit in (await engine.search(Query("meeting "))).hits] == [2, 3, 4]
    assert [hit.id for hit in (await engine.search(Query("meeting"))).hits][:2] == [2, 3]
    await engine.close()


async def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plugins.search.tantivy_engine", None)
    with pytest.raises(SearchUnusable, match=r"pip install 'tideline\[tantivy\]'"):
        own_engine("tantivy", str(tmp_path / "search.db"), MemoryStorage())


async def test_an_index_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "search.tantivy"
    engine = TantivyEngine(folder, MemoryStorage())
    await engine.open()
    await engine.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    await engine.close()
    (folder / "1" / "meta.json").write_text("{")
    await engine.open()
    assert (await engine.count(), await engine.positions()) == (0, {})
    assert (tmp_path / "search.tantivy.broken").is_dir()
    await engine.close()


async def test_two_never_write(tmp_path: Path) -> None:
    one = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    other = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage(), patience=0.0)
    await one.open()
    with pytest.raises(SearchUnavailable, match="is being written"):
        await other.open()
    await one.close()
    await other.open()
    await other.close()
