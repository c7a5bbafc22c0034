"""What only the embedded engine promises."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import plugins.search.fts5 as fts5
import plugins.search.fts5_index as fts5_index
import plugins.search.fts5_layout as fts5_layout
import plugins.search.fts5_names as fts5_names
import plugins.search.fts5_vocabulary as fts5_vocabulary
from broker.ids import EPOCH
from plugins.search.engine import Document, Query, SearchUnavailable, SearchUnusable
from plugins.search.fts5 import Fts5Engine
from plugins.search.fts5_body import packed, unpacked
from plugins.search.fts5_search import Reader
from plugins.search.text import cut, tokens
from tests.search.corpus import START, documents


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.db"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[Fts5Engine]:
    engine = Fts5Engine(path)
    await engine.open()
    yield engine
    await engine.close()


def _document(number: int, text: str = "common", time: int = 0) -> Document:
    return Document(number, "t", number, "u/a", "d", time or START + number, text)


def _tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'docs_*'")}
    db.close()
    return names


def check_file(path: Path) -> None:
    """The inverted index must agree with the tokens beside it."""
    with sqlite3.connect(path) as db:
        (generation,) = db.execute("SELECT value FROM meta WHERE key = 'live'").fetchone()
        db.execute(f"CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, fts_{generation}, instance)")
        indexed: dict[int, list[tuple[int, str]]] = {}
        for term, doc, offset in db.execute("SELECT term, doc, offset FROM temp.terms WHERE col = 'body'"):
            indexed.setdefault(doc, []).append((offset, term))
        told = {rowid: " ".join(term for _, term in sorted(found)) for rowid, found in indexed.items()}
        bodies = db.execute(f"SELECT rowid, body FROM bodies_{generation} WHERE body != ''")
        assert told == {rowid: unpacked(body) for rowid, body in bodies}
        rowids = {rowid for (rowid,) in db.execute(f"SELECT rowid FROM docs_{generation}")}
        assert rowids == {rowid for (rowid,) in db.execute(f"SELECT rowid FROM bodies_{generation}")}
    db.close()


async def test_rows_and_the_inverted_index_agree(engine: Fts5Engine, path: Path) -> None:
    await engine.index(documents(), {0: 29})
    await engine.delete([3, 8])
    await engine.forget("chat/ops", 3)
    check_file(path)


async def test_a_python_without_fts5_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(sqlite3.Connection):
        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
            if "fts5" in sql:
                raise sqlite3.OperationalError("no such module: fts5")
            return super().execute(sql, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: Without(*a, **k))
    engine = Fts5Engine(path)
    with pytest.raises(SearchUnusable, match=r"no fts5 .*use a python that has it, or engine: meilisearch"):
        await engine.open()
    await engine.close()


@pytest.fixture
def notes(path: Path) -> bytes:
    """What is in a file that is no database."""
    text = b"these are somebody's notes, not a database" * 100
    path.write_bytes(text)
    return text


async def test_a_file_that_is_no_database_is_set_aside(path: Path, notes: bytes) -> None:
    engine = Fts5Engine(path)
    await engine.open()
    await engine.index([_document(1)], {0: 1})
    assert (await engine.search(Query(q="common"))).total == 1
    await engine.close()
    assert await asyncio.to_thread((path.parent / "search.db.broken").read_bytes) == notes


async def test_names_of_which_no_message_is_left_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the purge of what was deleted, some rows a step; also where it is closed between two, and where messages come or
    go meanwhile."""
    monkeypatch.setattr(fts5_names, "_AT_ONCE", 3)

    def said(number: int, topic: str, who: str) -> Document:
        return Document(number, topic, number, f"u/{who}", f"{who}'s", number, "text")

    def names() -> dict[str, list[str]]:
        with closing(sqlite3.connect(path)) as db:
            (live,) = db.execute("SELECT value FROM meta WHERE key = 'live'").fetchone()
            kinds = ("conversations", "senders", "devices")
            return {kind: [name for (name,) in db.execute(f"SELECT name FROM {kind}_{live} ORDER BY name")] for kind in kinds}

    def people(*who: str) -> dict[str, list[str]]:
        return {"senders": [f"u/{one}" for one in who], "devices": [f"{one}'s" for one in who]}

    engine = Fts5Engine(path)
    await engine.open()
    await engine.index([said(n, "a", "ann") for n in range(1, 4)] + [said(4, "a", "bob"), said(5, "a", "eve")], {0: 5})
    await engine.index([said(n, "b", "cat") for n in range(6, 16)], {0: 15})
    await engine.forget("a", 6)
    assert names() == {"conversations": ["b"], **people("ann", "bob", "cat", "eve")}
    assert await engine.purge()
    await engine.close()
    engine = Fts5Engine(path)
    await engine.open()
    assert await engine.purge()
    await engine.index([said(16, "b", "ann"), said(17, "c", "bob")._replace(time=1)], {0: 17})
    while await engine.purge():
        pass
    assert names() == {"conversations": ["b", "c"], **people("ann", "bob", "cat")}
    await engine.delete([17])
    while await engine.purge():
        pass
    assert names() == {"conversations": ["b"], **people("ann", "cat")}
    assert not await engine.purge()
    await engine.index([said(18, "c", "bob")], {0: 18})
    for who, ids in (("bob", [18]), ("ann", [16]), ("eve", [])):
        assert [hit.id for hit in (await engine.search(Query("text", sender=f"u/{who}"))).hits] == ids
    await engine.close()


async def test_words_of_which_retention_left_no_message_are_not_taken_for_a_typo(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They leave the vocabulary behind the names, some a step; also where it is closed between two, and where messages come or
    go meanwhile."""
    monkeypatch.setattr(fts5_vocabulary, "_AT_ONCE", 2)

    def words() -> list[str]:
        with closing(sqlite3.connect(path)) as db:
            (live,) = db.execute("SELECT value FROM meta WHERE key = 'live'").fetchone()
            return [word for (word,) in db.execute(f"SELECT word FROM words_{live} ORDER BY word")]

    texts = ["apple apricot", "banana cherry", "damson", "elder", "figtree", "grape apple"]
    documents = [_document(number, text) for number, text in enumerate(texts, 1)]
    engine = Fts5Engine(path)
    await engine.open()
    await engine.index(documents, {0: 6})
    await engine.forget("t", 5)
    assert words() == ["apple", "apricot", "banana", "cherry", "damson", "elder", "figtree", "grape"]
    while "apricot" in words():
        assert await engine.purge()
    assert words()[:2] == ["apple", "banana"]
    await engine.close()
    engine = Fts5Engine(path)
    await engine.open()
    assert await engine.purge()
    await engine.index([_document(7, "apricot cherry")], {0: 7})
    await engine.forget("t", 6)
    while await engine.purge():
        pass
    assert words() == ["apple", "apricot", "cherry", "grape"]
    await engine.index([_document(8, "banana")], {0: 8})
    assert [hit.id for hit in (await engine.search(Query("bananna"))).hits] == [8]
    await engine.close()


async def test_names_leave_the_file_with_the_last_step(path: Path) -> None:
    """Also while nothing else is written, and the file stays open."""

    def there() -> bool:
        return any(b"forgetme" in file.read_bytes() for file in path.parent.glob("search.db*"))

    engine = Fts5Engine(path)
    await engine.open()
    await engine.index(
        [Document(1, "a", 1, "u/forgetme", "phone", 1, "text"), Document(2, "a", 2, "u/b", "b", 2, "text")], {0: 2}
    )
    await engine.delete([1])
    assert there()
    while await engine.purge():
        pass
    assert not there()
    await engine.close()


async def test_a_file_that_cannot_be_opened_is_away_for_who_searches(engine: Fts5Engine, path: Path) -> None:
    """As on a full disk, where its log cannot be mapped: whoever asked may try again."""
    engine._path = path.parent
    with pytest.raises(SearchUnavailable, match="search index: unable to open"):
        await engine.count()
    engine._path = path
    assert await engine.count() == 0


async def test_a_path_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    engine = Fts5Engine(tmp_path / "file" / "search.db")
    with pytest.raises(SearchUnusable, match=r"search\.db"):
        await engine.open()
    await engine.close()


async def test_another_tokeniser_makes_the_index_stale_until_it_is_rebuilt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(fts5_layout, "TOKENISER", 999)
        engine = Fts5Engine(path)
        await engine.open()
        await engine.index(documents(), {0: 29})
        await engine.close()
    engine = Fts5Engine(path)
    await engine.open()
    assert engine.stale
    await engine.delete([3])  # by the tokens that were kept
    rebuild = await engine.rebuild()
    await rebuild.index(documents(), {0: 29})
    await rebuild.swap()
    assert not engine.stale
    await engine.close()
    await engine.open()
    assert not engine.stale
    await engine.close()
    check_file(path)


EARLIER_TABLES = (
    (
        """CREATE TABLE docs_{g}(rowid INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, conversation INTEGER NOT NULL,
        sender INTEGER NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, device TEXT NOT NULL)""",
        "CREATE VIRTUAL TABLE fts_{g} USING fts5(body, conversation, sender, content='', tokenize='ascii', prefix='1 2 3')",
    ),
    (
        """CREATE TABLE docs_{g}(rowid INTEGER PRIMARY KEY, id INTEGER, conversation INTEGER NOT NULL,
        sender INTEGER NOT NULL, seq INTEGER NOT NULL, late INTEGER NOT NULL, device TEXT NOT NULL)""",
        "CREATE UNIQUE INDEX docs_{g}_id ON docs_{g}(id) WHERE id IS NOT NULL",
        """CREATE VIRTUAL TABLE fts_{g} USING fts5(body, conversation, sender, content='', columnsize=0, tokenize='ascii',
        prefix='2')""",
    ),
)
ALWAYS = (
    "CREATE TABLE bodies_{g}(rowid INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE INDEX docs_{g}_seq ON docs_{g}(conversation, seq)",
    "CREATE TABLE conversations_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE senders_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE words_{g}(first TEXT, length INTEGER, word TEXT, PRIMARY KEY(first, length, word)) WITHOUT ROWID",
)
"""The tables of earlier layouts, and those that each of them has."""


def _given(number: int, late: int = 0) -> Document:
    """With an id as brokers give them, whose time is ``late`` ms before the message's."""
    id = (START + number - EPOCH) << 22 | number % 50
    return Document(id, "t", number, "u/a", "d", START + number + late, f"word{number} common")


async def _ask_and_remove(engine: Fts5Engine, given: list[Document]) -> None:
    """All that finds a message by its id, or tells it."""
    ids = {document.id for document in given}
    await engine.index(given, {0: max(ids)})  # again: none twice
    found = (await engine.search(Query(q="common", limit=100))).hits
    assert sorted(hit[:6] for hit in found) == sorted(document[:6] for document in given)
    assert set(await engine.held("t", 1, 9999)) == ids
    for document in given:
        timed = Query(q="common", since=document.time, until=document.time + 1, limit=100)
        expected = {other.id for other in given if other.time == document.time}
        assert {hit.id for hit in (await engine.search(timed)).hits} == expected
    await engine.delete([given[0].id, given[-1].id])
    assert set(await engine.held("t", 1, 9999)) == ids - {given[0].id, given[-1].id}
    await engine.index(given, {0: max(ids)})
    assert await engine.count() == len(given)


async def test_messages_whose_ids_follow_from_their_places_and_others(engine: Fts5Engine, path: Path) -> None:
    far = [_given(number, late=5000 * (number % 2 * 2 - 1)) for number in (20, 31)]
    given = [
        *(_given(number) for number in range(1, 9)),
        *(_given(number, late=number - 14) for number in range(9, 20)),
        *far,
        _document(40, "common", time=START + 12),
        *(_given(number) for number in (5012, 41)),  # later than what was far from its id, and before it
    ]
    for at in range(0, len(given), 5):
        await engine.index(given[at : at + 5], {0: 1})
    await _ask_and_remove(engine, given)
    check_file(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM docs_1 WHERE id >= 0").fetchone() == (3,)
    db.close()


def test_every_number_has_a_term_of_its_own_that_fts5_takes_whole() -> None:
    """Of one character, so that it is in no list of beginnings, as long as there are characters."""
    edges = (0, 0xD6FF, 0xD700, 0xD6FF + 0x100000, 0xD700 + 0x100000, 0xD700 + 2 * 0x100000, 1 << 30)
    numbers = sorted({number + by for number in edges for by in range(-300, 300) if number + by >= 0})
    terms = [fts5_layout.term("c", number, earlier=False) for number in numbers]
    assert len(set(terms)) == len(numbers)
    assert {len(term) for number, term in zip(numbers, terms, strict=True) if number < 1 << 20} == {1}
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE VIRTUAL TABLE t USING fts5(term, content='', tokenize='ascii', prefix='2')")
        db.executemany("INSERT INTO t(rowid, term) VALUES (?, ?)", zip(numbers, terms, strict=True))
        for number, one in zip(numbers, terms, strict=True):
            assert db.execute("SELECT rowid FROM t WHERE t MATCH ?", (f'term : ("{one}")',)).fetchall() == [(number,)]
    db.close()


@pytest.mark.parametrize(("layout", "tables"), list(enumerate(EARLIER_TABLES)))
async def test_an_index_with_earlier_tables_is_in_use_until_it_is_rebuilt(
    path: Path, monkeypatch: pytest.MonkeyPatch, layout: int, tables: tuple[str, ...]
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(fts5_index, "TABLES", (*tables, *ALWAYS))
        earlier.setattr(fts5_layout, "LAYOUT", layout)
        engine = Fts5Engine(path)
        await engine.open()
        await engine.close()
    given = [_given(number) for number in range(1, 20)]
    engine = Fts5Engine(path)
    await engine.open()
    assert engine.stale
    await engine.index(given, {0: given[-1].id})
    await _ask_and_remove(engine, given)
    rebuild = await engine.rebuild()
    await rebuild.index(given, {0: given[-1].id})
    await rebuild.swap()
    assert not engine.stale
    await _ask_and_remove(engine, given)
    await engine.close()
    check_file(path)


async def test_another_schema_begins_anew(path: Path) -> None:
    engine = Fts5Engine(path)
    await engine.open()
    await engine.index(documents(), {0: 29})
    await engine.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = 0 WHERE key = 'schema'")
    db.close()
    await engine.open()
    assert await engine.positions() == {}
    assert await engine.count() == 0
    await engine.close()
    assert len(_tables(path)) == 1


async def test_an_index_of_a_newer_version_begins_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What its rows say is not known here: ids that were guessed would be other messages'."""
    engine = Fts5Engine(path)
    await engine.open()
    await engine.index(documents(), {0: 29})
    await engine.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE generations SET tokeniser = ?", ((fts5_layout.LAYOUT + 1) * 1000 + 1,))
    db.close()
    await engine.open()
    assert "newer version" in caplog.text
    assert not engine.stale
    assert await engine.positions() == {}
    assert await engine.count() == 0
    await engine.index(documents(), {0: 29})
    await engine.close()
    assert len(_tables(path)) == 1
    check_file(path)


async def test_a_rebuild_whose_old_tables_cannot_be_removed_is_in_use(
    engine: Fts5Engine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(db: sqlite3.Connection, live: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    await engine.index([_document(1, "old")], {0: 1})
    rebuild = await engine.rebuild()
    await rebuild.index([_document(1, "new")], {0: 1})
    with monkeypatch.context() as patched:
        patched.setattr(fts5, "drop_others", full)
        await rebuild.swap()
    assert (await engine.search(Query(q="new "))).total == 1
    assert len(_tables(path)) == 2
    await (await engine.rebuild()).swap()
    assert len(_tables(path)) == 1


async def test_an_interrupted_rebuild_is_cleared_away(path: Path) -> None:
    engine = Fts5Engine(path)
    await engine.open()
    await engine.index(documents(), {0: 29})
    rebuild = await engine.rebuild()
    await rebuild.index(documents()[:9], {0: 9})
    await engine.close()  # as a crash leaves it: neither swapped nor discarded
    assert len(_tables(path)) == 2
    await engine.open()
    assert await engine.positions() == {0: 29}
    assert await engine.count() == len(documents())
    await engine.close()
    assert len(_tables(path)) == 1


async def test_a_failed_write_changes_nothing_and_can_be_repeated(engine: Fts5Engine, path: Path) -> None:
    await engine.index([_document(1)], {0: 1})
    with sqlite3.connect(path) as other:  # a full disk, near enough: the write fails in the middle
        pages = other.execute("PRAGMA page_count").fetchone()[0]
    other.close()
    await engine._write(lambda: engine._generation().db.execute(f"PRAGMA max_page_count = {pages + 2}"))
    big = [_document(n, " ".join(f"word{n}x{i}" for i in range(200))) for n in range(2, 200)]
    with pytest.raises(SearchUnavailable, match="full"):
        await engine.index(big, {0: 199})
    assert await engine.positions() == {0: 1}
    assert await engine.count() == 1
    await engine._write(lambda: engine._generation().db.execute("PRAGMA max_page_count = 1000000"))
    await engine.index(big, {0: 199})
    assert await engine.count() == 199
    assert (await engine.search(Query(q="word77x3 "))).total == 1
    check_file(path)


async def test_more_messages_in_a_millisecond_than_it_has_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fts5_layout, "SLOTS", 4)
    engine = Fts5Engine(path)
    await engine.open()
    times = [START] * 10 + [START + 1] * 3 + [START] * 3 + [START + 5, START + 2]
    await engine.index([_document(n, time=time) for n, time in enumerate(times, 1)], {0: len(times)})
    for since, until in ((0, 0), (START, START + 1), (START + 1, START + 2), (START + 2, 0), (0, START + 1)):
        expected = {n for n, time in enumerate(times, 1) if time >= since and (not until or time < until)}
        found = (await engine.search(Query(q="common", since=since, until=until, limit=100))).hits
        assert {hit.id for hit in found} == expected
    await engine.close()


async def test_a_burst_that_stands_seconds_behind_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its messages is found by its time, tells its id, and is there once."""
    monkeypatch.setattr(fts5_layout, "SLOTS", 1)
    engine = Fts5Engine(path)
    await engine.open()
    first = START - EPOCH << 22
    burst = [Document(first + n, "t", n + 1, "u/a", "d", START, f"burst{n} common") for n in range(1300)]
    after = [Document(first + (500 << 22), "t", 1301, "u/a", "d", START + 500, "after common")]
    for batch in (burst[:700], burst[700:] + after, burst[200:300]):
        await engine.index(batch, {0: after[0].id})
    assert await engine.count() == 1301
    await engine.close()
    await engine.open()
    for n in (0, 1, 255, 256, 1299):
        hits = (await engine.search(Query(q=f"burst{n} ", since=START, until=START + 1))).hits
        assert [hit.id for hit in hits] == [burst[n].id]
    newest = (await engine.search(Query(q="common", sort="newest", limit=2))).hits
    assert [hit.id for hit in newest] == [after[0].id, burst[-1].id]
    assert (await engine.search(Query(q="common", since=START + 1, until=START + 501))).total == 1
    await engine.delete([burst[n].id for n in (0, 255, 256)])
    assert await engine.count() == 1298
    await engine.close()
    check_file(path)


async def test_what_comes_behind_a_burst_does_not_go_through_it_each_time(engine: Fts5Engine, path: Path) -> None:
    """As where the clock was set back: an hour's messages would have kept the index busy for longer than that."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1000
        return 0

    burst = [_document(n, time=START) for n in range(1, 3001)]
    await engine.index([*burst, _document(3001, time=START + 3_600_000)], {0: 1})
    await engine._write(lambda: engine._generation().db.set_progress_handler(count, 1000))
    await engine.index([_document(n, time=START + n % 2) for n in range(3002, 3202)], {0: 1})
    assert steps < 500_000, "what SQLite does for one message behind the burst is some hundred steps"
    assert await engine.count() == 3201
    await engine.delete([7, 3001, 3100])
    await engine.index([_document(3300, time=START), _document(3301, time=START), _document(7, time=START)], {0: 1})
    assert (await engine.search(Query(q="common", until=START + 2))).total == 1000
    assert set(await engine.held("t", 1, 9999, 9999)) == {*range(1, 3202), 3300, 3301} - {3001, 3100}
    await engine.close()
    check_file(path)


async def test_a_hit_tells_the_device_that_sent_it(engine: Fts5Engine) -> None:
    sent = [_document(n)._replace(sender=f"u/{n % 2}", device=("phone", "")[n % 3 == 0]) for n in range(1, 9)]
    await engine.index(sent, {0: 8})
    found = (await engine.search(Query(q="common"))).hits
    assert {hit.id: (hit.sender, hit.device) for hit in found} == {one.id: (one.sender, one.device) for one in sent}


def test_bodies_are_kept_in_few_bytes_and_come_back_as_they_were() -> None:
    texts = [
        "",
        "a",
        "天",
        "天气",
        "a b c",
        "word",
        "meeting 天气 at 10 in 北京 now",
        "明天3点。开会",
        "🇨🇳🇩🇪 flags",
        "한국어",
        "ไทย x",
    ]
    for text in [*texts, *(document.text for document in documents())]:
        found = tokens(text)
        assert unpacked(packed(cut(text)[1])) == " ".join(found)
        assert unpacked(" ".join(found)) == " ".join(found), "what earlier versions kept"
    kept = packed(cut("明天下午开会讨论预算")[1])
    assert len(kept) == 22
    assert isinstance(kept, bytes)


async def test_an_index_of_before_is_merged_as_a_new_one(path: Path) -> None:
    def merged_at() -> list[object]:
        with closing(sqlite3.connect(path)) as db:
            return list(db.execute("SELECT v FROM fts_1_config WHERE k = 'automerge'"))

    for merging in ("INSERT INTO fts_1(fts_1, rank) VALUES ('automerge', 4)", "DELETE FROM fts_1_config WHERE k = 'automerge'"):
        engine = Fts5Engine(path)
        await engine.open()
        await engine.close()
        assert merged_at() == [(8,)]
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(merging)
    engine = Fts5Engine(path)
    await engine.open()
    await engine.close()
    assert merged_at() == [(8,)]


async def test_searches_go_on_while_a_batch_is_written(engine: Fts5Engine) -> None:
    await engine.index([_document(1)], {0: 1})
    release = threading.Event()
    writing = asyncio.ensure_future(engine._write(release.wait))
    async with asyncio.timeout(10):
        assert (await engine.search(Query(q="common"))).total == 1
    assert not writing.done()
    release.set()
    await writing


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Searches that don't end until the event is set."""
    release = threading.Event()
    monkeypatch.setattr(Reader, "search", lambda self, query: release.wait())
    yield release
    release.set()


async def test_too_many_searches_are_refused(engine: Fts5Engine, stuck: threading.Event) -> None:
    waiting = [asyncio.ensure_future(engine.search(Query(q="x"))) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(SearchUnavailable, match="64 searches are under way"):
        await engine.search(Query(q="x"))
    stuck.set()
    await asyncio.gather(*waiting)
    await asyncio.sleep(0)
    await engine.search(Query(q="x"))


async def test_a_search_that_takes_too_long_is_broken_off(path: Path) -> None:
    engine = Fts5Engine(path, seconds=0.0)
    await engine.open()
    await engine.index([_document(n, "common " * 50) for n in range(1, 3000)], {0: 3000})
    with pytest.raises(SearchUnavailable, match="took too long"):
        await engine.search(Query(q="common"))
    await engine.close()


async def test_a_closed_engine_says_so(path: Path) -> None:
    engine = Fts5Engine(path)
    with pytest.raises(SearchUnavailable, match="not open"):
        await engine.search(Query(q="x"))
    with pytest.raises(SearchUnavailable, match="closed"):
        await engine.index([], {0: 1})
    await engine.open()
    await engine.close()
    await engine.close()
    with pytest.raises(SearchUnavailable):
        await engine.count()
