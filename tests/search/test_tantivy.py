"""What only the index on tantivy has: words that leave its segments, writers that fail, prefixes of very many words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

pytest.importorskip("tantivy")

import plugins.search.tantivy_engine as tantivy_engine
import plugins.search.tantivy_index as tantivy_index
import plugins.search.tantivy_search as tantivy_search
from broker.cli.place import forget_index
from plugins.search.compare import documents
from plugins.search.engine import BadQuery, Document, Query, SearchUnavailable, SearchUnusable, encode_cursor
from plugins.search.indexer import Indexer
from plugins.search.own_files import own_engine
from plugins.search.permission import search_permitted
from plugins.search.plugin import SearchPlugin
from plugins.search.process import IndexerProcess
from plugins.search.tantivy_engine import TantivyEngine
from storage.memory import MemoryStorage
from storage.records import Message
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
    assert strays(engine._path) == []


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
    assert await indexer.wait_indexed(2, 60)
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
    """A full disk, say: neither the messages nor the position are there, and then both are, once; also while somebody has the
    error yet, and with it the writer that failed."""
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
        with pytest.raises(SearchUnavailable, match="No space left") as told:
            await engine.index(batch, {0: 3})
    assert (await engine.count(), await engine.positions()) == (0, {})
    await engine.index(batch, {0: 3})
    assert (await engine.count(), await engine.positions()) == (3, {0: 3})
    assert told.tb is not None
    await engine.close()


async def test_pages_of_conversations_do_not_list_all_of_them_each_time(tmp_path: Path) -> None:
    """A start goes through all of them, page by page."""
    names = [*(f"home/{n}/x" for n in range(1000)), *(f"office/{n:05}" for n in range(1000))]
    names += ["a", "home", "home/1", "home/é", "会议"]
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    await engine.index([Document(n, name, 1, "u/a", "d", START + n, "x") for n, name in enumerate(names, 1)], {0: len(names)})
    listed = 0

    class Counted:
        def __init__(self, real: Any) -> None:
            self._real = real

        def terms_with_prefix(self, *asked: Any) -> Any:
            nonlocal listed
            found = self._real.terms_with_prefix(*asked)
            listed += len(found)
            return found

    def pages(snapshot: tantivy_search.Snapshot) -> list[str]:
        counted = tantivy_search.Snapshot(cast(Any, Counted(snapshot._searcher)), snapshot._schema, snapshot._deadline)
        found: list[str] = []
        while page := counted.topics(found[-1] if found else "", 10):
            found += page
        return found

    assert await engine._read(pages) == sorted(names)
    assert listed < 50 * len(names)
    await engine.close()


async def test_a_search_while_an_index_takes_the_place_of_another_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at which one is in use and the look into it."""
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    assert await engine.count() == 0
    rebuild = await engine.rebuild()
    await rebuild.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    await rebuild.swap()
    told = iter([1])
    live = tantivy_index.live_generation
    monkeypatch.setattr(tantivy_search, "live_generation", lambda folder: next(told, None) or live(folder))
    assert await engine.count() == 1
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


async def _kept(publisher: Publisher, numbers: Iterable[int]) -> list[Document]:
    return documents(await publisher.storage.read_messages(list(numbers)))


async def test_words_leave_also_where_a_message_was_added_again(tmp_path: Path) -> None:
    """As what stands between messages of a segment with deleted ones is, which leaves its words in a segment of its own."""
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await publisher.publish(*(word(n) for n in range(6)))
    await engine.index(await _kept(publisher, [1, 2, 4]), {0: 6})
    await engine.index(await _kept(publisher, [3, 5, 6]), {0: 6})
    await engine.delete([1])
    await _purged(engine)
    assert await engine.count() == 5
    await engine.delete([3])
    await _purged(engine)
    assert words_of(folder) == {word(n - 1) for n in (2, 4, 5, 6)}
    assert await engine.count() == 4
    await engine.close()


async def test_words_leave_also_where_retention_had_removed_the_message(tmp_path: Path) -> None:
    """It goes first, and the recall of it is read then; also where the note could not be written at first."""
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 5, 5)
    await engine.forget("chat/a", 3)
    await _purged(engine)
    assert word(0) in words_of(folder), "else tantivy forgets by itself"
    generation = engine._generation()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", _full)
        with pytest.raises(SearchUnavailable):
            await engine.delete([2])
    await engine.delete([2])
    assert json.loads((folder / str(generation.number) / "tideline.json").read_text())["due"]
    await _purged(engine)
    assert words_of(folder) == {*(word(n) for n in (2, 3, 4)), "common", "words", "here"}
    await engine.delete([1, 77])  # nothing is left of them, and nothing is due for them
    assert not await engine.purge()
    await engine.close()


def _full(*paths: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("sort", ["newest", "oldest", "relevance"])
async def test_pages_have_all_that_came_in_one_millisecond(
    tmp_path: Path, sort: Literal["newest", "oldest", "relevance"]
) -> None:
    """The clock of the ids is another than that of the times, so that the end of a key may be the same."""
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    ids = [n << 22 for n in range(1, 8)]
    for some in (ids[4:], ids[:4]):
        batch = [Document(id, f"t/{id >> 22}", 1, "u/a", "d", START, "common") for id in some]
        await engine.index(batch, {0: ids[-1]})
    wanted = ids if sort == "oldest" else ids[::-1]

    async def may_read(topic: str) -> bool:
        return topic != "t/3"

    for allowed in (False, True):
        found: list[int] = []
        query = Query("common", sort=sort, limit=2)
        while True:
            page = await (search_permitted(engine, query, may_read) if allowed else engine.search(query))
            found += [hit.id for hit in page.hits]
            if not page.next:
                break
            query = replace(query, cursor=page.next)
        assert found == [id for id in wanted if not allowed or id >> 22 != 3]
    await engine.close()


async def test_relevance_looks_at_some_of_one_millisecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tantivy_search, "RANKED", 3)
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    batch = [Document(n << 22, "t", n, "u/a", "d", START, "two words") for n in range(1, 8)]
    await engine.index(batch, {0: 7 << 22})
    found = await engine.search(Query("two words"))
    assert ([hit.seq for hit in found.hits], found.total, found.exact) == ([7, 6, 5], 3, False)
    await engine.close()


@pytest.mark.parametrize("sort", ["newest", "relevance"])
async def test_a_cursor_that_somebody_made_up_is_refused(tmp_path: Path, sort: Literal["newest", "relevance"]) -> None:
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    await engine.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    query = Query("common", sort=sort)
    high = (1 << 62) - 1
    query = replace(query, cursor=encode_cursor(query, *[high] * (4 if sort == "relevance" else 7)))
    with pytest.raises(BadQuery, match="not one of ours"):
        await engine.search(query)
    with pytest.raises(BadQuery, match="not one of ours"):
        await engine.unasked(query, set(), 10)
    await engine.close()


async def test_a_new_index_is_in_use_though_the_old_one_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on NFS, while somebody reads it."""
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage())
    await engine.open()
    rebuild = await engine.rebuild()
    await rebuild.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", _full)
        await rebuild.swap()
    assert "takes up room until the next start" in caplog.text
    assert (await engine.count(), await engine.positions()) == (1, {0: 1})
    await engine.close()
    await engine.open()
    assert [path.name for path in engine._path.iterdir() if path.is_dir()] == ["2"]
    assert await engine.count() == 1
    await engine.close()


async def test_a_step_of_a_purge_reads_no_more_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large messages it adds fewer again."""
    monkeypatch.setattr(tantivy_engine, "_READ_AT_ONCE", 2)
    monkeypatch.setattr(tantivy_engine, "_REWRITTEN_BYTES", 50)
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 20, 20)
    await engine.delete([5])
    read: list[int] = []
    read_messages = storage.read_messages

    async def noted(ids: Sequence[int]) -> list[Message]:
        read.extend(ids)
        return await read_messages(ids)

    monkeypatch.setattr(storage, "read_messages", noted)
    assert await engine.purge()
    assert read == [1, 2]
    await _purged(engine)
    assert read == sorted(set(read)), "each once, until the segment is empty or merged"
    assert word(4) not in words_of(folder)
    assert await engine.count() == 19
    await engine.close()


async def test_a_deletion_goes_on_after_merging_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 3, 3)
    generation = engine._generation()
    real = generation.writer

    class Failing:
        def wait_merging_threads(self) -> None:
            real.wait_merging_threads()
            raise ValueError("An error occurred in a thread: 'Failed to join merging thread.'")

    monkeypatch.setattr(generation, "_writer", Failing())
    with pytest.raises(SearchUnavailable, match="merging"):
        await engine.delete([1])
    await engine.delete([1])
    assert await engine.count() == 2
    await engine.close()


async def test_a_purge_looks_only_where_the_segment_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it looks at would grow with the square of the index."""
    monkeypatch.setattr(tantivy_index, "_LOOKED_AT", 4)
    storage, folder = MemoryStorage(), tmp_path / "search.tantivy"
    publisher, engine = Publisher(storage), TantivyEngine(folder, storage)
    await engine.open()
    await _filled(engine, publisher, 200, 200)
    await _filled(engine, publisher, 10, 10)
    await engine.delete([205])
    generation, looked = engine._generation(), 0
    look = generation._look

    def counted() -> Any:
        nonlocal looked
        looked += 1
        return look()

    monkeypatch.setattr(generation, "_look", counted)
    assert await engine.purge()
    assert looked == 1
    await _purged(engine)
    assert await engine.count() == 209
    await engine.close()


def test_the_index_of_other_data_goes_also_where_its_folder_is_the_path(tmp_path: Path) -> None:
    folder, config = tmp_path / "search.tantivy", tmp_path / "config.yaml"
    config.write_text(f"plugins:\n  search:\n    engine: tantivy\n    path: {folder}\n")
    (folder / "1").mkdir(parents=True)
    forget_index(config, None, None)
    assert not folder.exists()


async def test_an_index_is_not_set_aside_for_what_is_not_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search.tantivy"
    engine = TantivyEngine(folder, MemoryStorage())
    await engine.open()
    await engine.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    await engine.close()

    def too_many(folder: Path) -> None:
        raise ValueError("An IO error occurred: 'Too many open files (os error 24)'")

    with monkeypatch.context() as patch:
        patch.setattr(tantivy_index, "opened", too_many)
        with pytest.raises(SearchUnusable, match="Too many open files"):
            await engine.open()
    assert not (tmp_path / "search.tantivy.broken").exists()
    await engine.open()
    assert await engine.count() == 1
    await engine.close()


async def test_a_search_that_takes_too_long_ends_with_the_step_under_way(tmp_path: Path) -> None:
    engine = TantivyEngine(tmp_path / "search.tantivy", MemoryStorage(), seconds=0.0)
    await engine.open()
    await engine.index([Document(1, "t", 1, "u/a", "d", START, "common")], {0: 1})
    for ask in (engine.search(Query(q="common")), engine.unasked(Query(q="common"), set(), 10)):
        with pytest.raises(SearchUnavailable, match="took too long"):
            await ask
    await engine.close()
