"""The embedded index as a file: its tables, and what writes to them. Runs in the engine's writer thread.

A *generation* is a set of tables that one tokeniser filled; ``meta`` names the live one. A rebuild fills the next
generation beside it, and a swap is one small transaction, so that a crash leaves the old index or the new one.

- ``docs_<g>``: a row per message. ``rowid`` is the time in ms x 4096 plus a number that makes it unique, so that time
  order and time ranges are rowid order and rowid ranges; ``late`` is by how many ms the message's time is another. Rows are
  kept small, for filters look at very many of them: where ``id`` is null, it follows from ``rowid`` (`rowid_of`), as it
  does of nearly every message of a broker that is no cluster's.
- ``bodies_<g>``: a message's tokens, which FTS5 must be told again to remove it.
- ``fts_<g>``: the inverted index, contentless: ``body``, and conversation and sender as terms (`term`), so that
  filtering by a few of them is an intersection of lists. Beginnings of words are merged when they are asked for, from those
  of two characters: each further list of them took as much of the disk as the words themselves.
- ``positions``: how far each writer's messages are indexed, for each generation; ``generations.position`` is the one id for
  all that earlier versions kept.
- ``conversations_<g>``, ``senders_<g>``: numbers for names. ``words_<g>``: words by first letter and length, where typos look.

Over 300 lines: all that writes to these tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from broker.ids import EPOCH, time_of
from plugins.search.engine import EARLIER, Document, Positions
from plugins.search.terms import ONE_TYPO
from plugins.search.text import TOKENISER, solitary, tokens
from storage.cluster import number_of
from storage.private import make_file

SCHEMA = 1
LAYOUT = 1
"""Of the tables of a generation. Where it is an earlier one's, the generation is in use until another one is built."""
SLOTS = 4096
"""Rowids per millisecond: as many as a broker has ids."""
OVERRUN = 1000
"""Milliseconds by which a row may be early or late in rowid order: its id's time is not quite the message's, or its own ms was
full."""

_KNOWN = 50_000
_CHECKPOINT = 4000
"""Pages of log after which it is moved into the file, with an fsync; what several commits changed is written once."""
_LONGEST_WORD = 32
_FIRST_PLANE = 0xD700
"""Numbers that are characters of Unicode's first plane, below its surrogates."""
_MERGED = 500
"""Pages that one step of `Generation.purge` writes."""
_DUE, _UNDER_WAY = 1, 2
"""Of ``purge_<g>`` in ``meta``: something was deleted, and a purge that began before that goes on."""
_LISTED = "rowid IN (SELECT value FROM json_each(?))"

_META = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations(
    id INTEGER PRIMARY KEY AUTOINCREMENT, tokeniser INTEGER NOT NULL, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS positions(
    generation INTEGER NOT NULL, number INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY(generation, number)) WITHOUT ROWID;
"""
_TABLES = (
    """CREATE TABLE docs_{g}(rowid INTEGER PRIMARY KEY, id INTEGER, conversation INTEGER NOT NULL,
    sender INTEGER NOT NULL, seq INTEGER NOT NULL, late INTEGER NOT NULL, device TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX docs_{g}_id ON docs_{g}(id) WHERE id IS NOT NULL",
    "CREATE TABLE bodies_{g}(rowid INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE INDEX docs_{g}_seq ON docs_{g}(conversation, seq)",
    """CREATE VIRTUAL TABLE fts_{g} USING fts5(body, conversation, sender, content='', columnsize=0, tokenize='ascii',
    prefix='2')""",
    "CREATE TABLE conversations_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE senders_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE words_{g}(first TEXT, length INTEGER, word TEXT, PRIMARY KEY(first, length, word)) WITHOUT ROWID",
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes, to a file with a live generation: made where there is none, or another schema's."""
    make_file(path)
    db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes back, its position goes back with it
        db.execute("PRAGMA cache_size = -32000")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA secure_delete = ON")  # what was recalled is not to be found in the file
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.executescript(_META)
    if _known(db):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _known(db):
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?), ('live', ?)", (SCHEMA, new_generation(db)))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _known(db: sqlite3.Connection) -> bool:
    found = dict(db.execute("SELECT key, value FROM meta"))
    return "live" in found and found.get("schema") == SCHEMA


def live_generation(db: sqlite3.Connection) -> int:
    """The generation that is searched."""
    (generation,) = db.execute("SELECT value FROM meta WHERE key = 'live'").fetchone()
    return int(generation)


class Columns(NamedTuple):
    """How a message's id and time are read from the row ``d`` of ``docs_<g>``."""

    id: str
    time: str


def made_by() -> int:
    """The versions of the tables and of the tokeniser, as one number."""
    return LAYOUT * 1000 + TOKENISER


def maker_of(db: sqlite3.Connection, generation: int) -> int:
    """What `made_by` was when a generation was begun."""
    (maker,) = db.execute("SELECT tokeniser FROM generations WHERE id = ?", (generation,)).fetchone()
    return int(maker)


def is_earlier(db: sqlite3.Connection, generation: int) -> bool:
    """Whether a generation has the tables of before there were layouts: each row with its id and its time."""
    return maker_of(db, generation) < 1000


def columns_of(db: sqlite3.Connection, generation: int) -> Columns:
    """How to read the rows of a generation."""
    if is_earlier(db, generation):
        return Columns("d.id", "d.time")
    following = f"(d.rowid / {SLOTS} - {EPOCH}) << 22 | d.rowid % {SLOTS}"
    return Columns(f"coalesce(d.id, {following})", f"(d.rowid / {SLOTS} + d.late)")


def term(kind: str, number: int, earlier: bool) -> str:
    """The number of a conversation (``c``) or a sender (``s``) as a term: of one character, so that it is in no list of
    beginnings, or, of a number beyond a million, of two. With `is_earlier` tables it was written out."""
    if earlier:
        return f"{kind}{number}"
    if number < _FIRST_PLANE:
        return chr(0x100 + number)
    higher, number = divmod(number - _FIRST_PLANE, 0x100000)
    return chr(0x10000 + number) + (chr(0x100 + higher) if higher else "")


def rowid_of(id: int, time: int) -> int | None:
    """The rowid from which the id of a message follows; None where that would be too far from its time."""
    given = time_of(id)
    return given * SLOTS + id % SLOTS if number_of(id) == 0 and abs(time - given) <= OVERRUN else None


def new_generation(db: sqlite3.Connection) -> int:
    """Create the tables of a generation; the caller holds the transaction."""
    generation = db.execute("INSERT INTO generations(tokeniser, position) VALUES (?, 0)", (made_by(),)).lastrowid
    assert generation is not None
    for statement in _TABLES:
        db.execute(statement.format(g=generation))
    return generation


def drop_others(db: sqlite3.Connection, live: int) -> None:
    """Remove every generation but the live one, a table at a time."""
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        kind, _, generation = name.partition("_")
        if (
            kind in ("docs", "bodies", "fts", "conversations", "senders", "words")
            and generation.isdigit()
            and int(generation) != live
        ):
            db.execute(f"DROP TABLE IF EXISTS {name}")
    db.execute("DELETE FROM meta WHERE key LIKE 'purge%' AND key != ?", (f"purge_{live}",))
    db.execute("DELETE FROM positions WHERE generation != ?", (live,))
    db.execute("DELETE FROM generations WHERE id != ?", (live,))


class Generation:
    """Writes to one generation. Every method is one transaction."""

    def __init__(self, db: sqlite3.Connection, generation: int) -> None:
        self.db = db
        self.number = generation
        self._conversations: dict[str, int] = {}
        self._senders: dict[str, int] = {}
        self._words: set[str] = set()
        self._docs = f"docs_{generation}"
        self._fts = f"fts_{generation}"
        self._purge = f"purge_{generation}"
        self._last_rowid: int | None = None
        self._earlier = is_earlier(db, generation)

    def positions(self) -> Positions:
        """The positions that were committed last."""
        found = dict(self.db.execute("SELECT number, id FROM positions WHERE generation = ?", (self.number,)))
        if found:
            return found
        (position,) = self.db.execute("SELECT position FROM generations WHERE id = ?", (self.number,)).fetchone()
        return {EARLIER: int(position)} if position else {}

    def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages and set the positions, as one."""
        with _Transaction(self):
            self._insert(batch)
            self.db.execute("DELETE FROM positions WHERE generation = ?", (self.number,))
            rows = [(self.number, number, id) for number, id in positions.items()]
            self.db.executemany("INSERT INTO positions VALUES (?, ?, ?)", rows)

    def delete(self, ids: Collection[int]) -> None:
        """Remove messages by id, and the words that no other has. What FTS5 still holds of them is for `purge`."""
        with _Transaction(self):
            asked = (json.dumps(list(self._there(ids).values())),)
            bodies = self.db.execute(
                f"SELECT body FROM {self._docs} JOIN bodies_{self.number} USING (rowid) WHERE {_LISTED}", asked
            )
            words = {word for (body,) in bodies.fetchall() for word in body.split()}
            if self._remove(_LISTED, asked):
                self._unlearn(words)
                due = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value | excluded.value"
                self.db.execute(due, (self._purge, _DUE))

    def purge(self) -> bool:
        """One step of merging all segments into one, which alone lets go of what was deleted; whether there is more to do.

        At the end the log is cut, which has what the file had before. What was deleted meanwhile has its turn only then, so
        that each comes to its end.
        """
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (self._purge,)).fetchone()
        if row is None:
            return False
        changes = self.db.total_changes
        with _Transaction(self):
            # A negative number begins: every segment is to be merged, however few there are. A positive one goes on.
            pages, state = (_MERGED, row[0]) if row[0] & _UNDER_WAY else (-_MERGED, _UNDER_WAY)
            self.db.execute(f"INSERT INTO {self._fts}({self._fts}, rank) VALUES ('merge', ?)", (pages,))
            merged = self.db.total_changes - changes >= 2
            self.db.execute("UPDATE meta SET value = ? WHERE key = ?", (state, self._purge))
        if merged:
            return True
        ((busy, _, _),) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            return True
        if state & _DUE:
            self.db.execute("UPDATE meta SET value = ? WHERE key = ?", (_DUE, self._purge))
            return True
        self.db.execute("DELETE FROM meta WHERE key = ?", (self._purge,))
        return False

    def forget(self, topic: str, before_seq: int, limit: int) -> int:
        """Remove up to ``limit`` of a conversation's messages with seq < ``before_seq``; how many were removed."""
        row = self.db.execute(f"SELECT id FROM conversations_{self.number} WHERE name = ?", (topic,)).fetchone()
        if row is None:
            return 0
        due = f"SELECT rowid FROM {self._docs} WHERE conversation = ? AND seq < ?"
        if self.db.execute(f"{due} LIMIT 1", (row[0], before_seq)).fetchone() is None:
            return 0
        with _Transaction(self):
            removed = self._remove(f"rowid IN ({due} ORDER BY seq LIMIT ?)", (row[0], before_seq, limit))
            if self.db.execute(f"SELECT 1 FROM {self._docs} WHERE conversation = ? LIMIT 1", row).fetchone() is None:
                self.db.execute(f"DELETE FROM conversations_{self.number} WHERE id = ?", row)
                self._conversations.pop(topic, None)
        return removed

    def reset_caches(self) -> None:
        """Forget what a transaction that was rolled back may have put there."""
        self._conversations.clear()
        self._senders.clear()
        self._words.clear()
        self._last_rowid = None

    def _there(self, ids: Collection[int]) -> dict[int, int]:
        """The rowids of those of the messages that are there, by id."""
        sql = f"SELECT id, rowid FROM {self._docs} WHERE id IN (SELECT value FROM json_each(?))"
        found = dict(self.db.execute(sql, (json.dumps(list(ids)),)).fetchall())
        if not self._earlier:
            following = {rowid: id for id in ids if (rowid := rowid_of(id, time_of(id))) is not None}
            sql = f"SELECT rowid FROM {self._docs} WHERE id IS NULL AND {_LISTED}"
            for (rowid,) in self.db.execute(sql, (json.dumps(list(following)),)):
                found[following[rowid]] = rowid
        return found

    def _insert(self, batch: Sequence[Document]) -> None:
        there = set(self._there([document.id for document in batch]))
        docs: list[tuple[object, ...]] = []
        rows, words, earlier = [], set(), self._earlier
        for document in batch:
            if document.id in there:
                continue
            there.add(document.id)
            found = tokens(document.text)
            body = " ".join(found)
            words.update(found)
            conversation = self._number(f"conversations_{self.number}", self._conversations, document.topic)
            sender = self._number(f"senders_{self.number}", self._senders, document.sender)
            id, rowid = self._place(document, docs)
            time = document.time if self._earlier else document.time - rowid // SLOTS
            docs.append((rowid, id, conversation, sender, document.seq, time, document.device))
            rows.append((rowid, body, term("c", conversation, earlier), term("s", sender, earlier)))
        self._insert_docs(docs)
        self.db.executemany(f"INSERT INTO bodies_{self.number} VALUES (?, ?)", [row[:2] for row in rows])
        self.db.executemany(f"INSERT INTO {self._fts}(rowid, body, conversation, sender) VALUES (?, ?, ?, ?)", rows)
        self._learn(words)

    def _place(self, document: Document, docs: list[tuple[object, ...]]) -> tuple[int | None, int]:
        """(id as it is stored, rowid) of a message. ``docs`` are not inserted yet."""
        if self._last_rowid is None:
            (self._last_rowid,) = self.db.execute(f"SELECT coalesce(max(rowid), 0) FROM {self._docs}").fetchone()
        rowid = None if self._earlier else rowid_of(document.id, document.time)
        if rowid is not None and rowid > self._last_rowid:
            self._last_rowid = rowid
            return None, rowid
        following = max(max(0, document.time) * SLOTS, self._last_rowid + 1)
        if rowid is None and following < (document.time + 1) * SLOTS:
            self._last_rowid = following
            return document.id, following
        self._insert_docs(docs)  # where it looks, they must be
        docs.clear()
        if rowid is not None and self._is_free(rowid):
            return None, rowid
        return document.id, self._free_rowid(document.time)

    def _insert_docs(self, docs: Sequence[tuple[object, ...]]) -> None:
        self.db.executemany(f"INSERT INTO {self._docs} VALUES (?, ?, ?, ?, ?, ?, ?)", docs)

    def _is_free(self, rowid: int) -> bool:
        return self.db.execute(f"SELECT 1 FROM {self._docs} WHERE rowid = ?", (rowid,)).fetchone() is None

    def _free_rowid(self, time: int) -> int:
        """A free rowid for a time: the one after the last that its millisecond has."""
        first = max(0, time) * SLOTS
        taken = f"SELECT max(rowid) FROM {self._docs} WHERE rowid BETWEEN ? AND ?"
        (highest,) = self.db.execute(taken, (first, first + SLOTS - 1)).fetchone()
        rowid = first if highest is None else highest + 1
        while not self._is_free(rowid):  # it ran over
            rowid += 1
        self._last_rowid = max(self._last_rowid or 0, rowid)
        return rowid

    def _number(self, table: str, cache: dict[str, int], name: str) -> int:
        number = cache.get(name)
        if number is None:
            row = self.db.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchone()
            if row is None:
                row = (self.db.execute(f"INSERT INTO {table}(name) VALUES (?)", (name,)).lastrowid,)
            if len(cache) >= _KNOWN:
                cache.clear()
            number = cache[name] = int(row[0])
        return number

    def _learn(self, words: Iterable[str]) -> None:
        """Remember the words that a typo could mean. They stay when their messages go: a word without hits does no harm."""
        if len(self._words) > _KNOWN:
            self._words.clear()
        new = [word for word in words if word not in self._words and worth_learning(word)]
        self._words.update(new)
        rows = sorted((word[0], len(word), word) for word in new)
        self.db.executemany(f"INSERT OR IGNORE INTO words_{self.number} VALUES (?, ?, ?)", rows)

    def _unlearn(self, words: Iterable[str]) -> None:
        """Forget those of the words that no message has any more."""
        for word in filter(worth_learning, words):
            found = self.db.execute(f"SELECT 1 FROM {self._fts} WHERE {self._fts} MATCH ? LIMIT 1", (f'body : "{word}"',))
            if found.fetchone() is None:
                self.db.execute(
                    f"DELETE FROM words_{self.number} WHERE first = ? AND length = ? AND word = ?", (word[0], len(word), word)
                )
                self._words.discard(word)

    def _remove(self, where: str, parameters: Sequence[object]) -> int:
        source = f"{self._docs} JOIN bodies_{self.number} USING (rowid)"
        rows = [
            (rowid, body, term("c", conversation, self._earlier), term("s", sender, self._earlier))
            for rowid, body, conversation, sender in self.db.execute(
                f"SELECT rowid, body, conversation, sender FROM {source} WHERE {where}", parameters
            ).fetchall()
        ]
        delete = f"INSERT INTO {self._fts}({self._fts}, rowid, body, conversation, sender) VALUES ('delete', ?, ?, ?, ?)"
        self.db.executemany(delete, rows)
        for table in (self._docs, f"bodies_{self.number}"):
            self.db.executemany(f"DELETE FROM {table} WHERE rowid = ?", [row[:1] for row in rows])
        self._last_rowid = None
        return len(rows)


def worth_learning(word: str) -> bool:
    """Whether a word of a message may be what a misspelt word of a query means."""
    return ONE_TYPO - 1 <= len(word) <= _LONGEST_WORD and word.isalpha() and not solitary(word)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT; rolled back, and caches dropped, on any error."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __enter__(self) -> None:
        self._generation.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        db = self._generation.db
        try:
            if kind is None:
                db.execute("COMMIT")
                return
        except sqlite3.Error:
            self._undo()
            raise
        self._undo()

    def _undo(self) -> None:
        self._generation.reset_caches()
        if self._generation.db.in_transaction:
            self._generation.db.execute("ROLLBACK")
