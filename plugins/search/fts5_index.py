"""The embedded index as a file: its tables, and what writes to them. Runs in the engine's writer thread.

A *generation* is a set of tables that one tokeniser filled; ``meta`` names the live one. A rebuild fills the next
generation beside it, and a swap is one small transaction, so that a crash leaves the old index or the new one.

- ``docs_<g>``: a row per message. ``rowid`` is where its time is, so that time order and time ranges are rowid order and rowid
  ranges; ``late`` is by how many ms the message's time is another. Rows are kept small, for filters look at very many of
  them; what ``id`` has is in `plugins.search.fts5_layout`.
- ``bodies_<g>``: a message's tokens (`plugins.search.fts5_body`), which FTS5 must be told again to remove it.
- ``fts_<g>``: the inverted index, contentless: ``body``, and conversation and sender as terms (`term`), so that
  filtering by a few of them is an intersection of lists. Beginnings of words are merged when they are asked for, from those
  of two characters: each further list of them took as much of the disk as the words themselves.
- ``positions``: how far each writer's messages are indexed, for each generation; ``generations.position`` is the one id for
  all that earlier versions kept.
- ``conversations_<g>``, ``senders_<g>``, ``devices_<g>``: numbers for names; `plugins.search.fts5_names` says when
  they go. ``words_<g>``: words by first letter and length, where typos look; they go by `plugins.search.fts5_vocabulary`.

Over 300 lines: all that writes to these tables.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from broker.ids import time_of
from plugins.search.engine import EARLIER, Document, Positions
from plugins.search.fts5_body import packed, unpacked
from plugins.search.fts5_layout import (
    AHEAD,
    KINDS,
    LAYOUT,
    TABLES,
    first_slot,
    kept_id,
    layout_of,
    made_by,
    maker_of,
    overrun_of,
    term,
)
from plugins.search.fts5_names import Names
from plugins.search.fts5_vocabulary import Vocabulary
from plugins.search.terms import ONE_TYPO
from plugins.search.text import cut, solitary
from storage.cluster import number_of
from storage.private import make_file

log = logging.getLogger("tideline.search")

SCHEMA = 1
_KNOWN = 50_000
_CHECKPOINT = 4000
"""Pages of log after which it is moved into the file, with an fsync; what several commits changed is written once."""
_LONGEST_WORD = 32
_FORGOTTEN_AT_ONCE = 500
"""Messages that one step of `Generation.forget` removes."""
_MERGED = 500
"""Pages that one step of `Generation.purge` writes."""
_DUE, _UNDER_WAY, _FORGOTTEN = 1, 2, 4
"""Of ``purge_<g>`` in ``meta``: something was deleted; a purge that began before that goes on; retention has removed something,
which has no hurry until it is deleted too."""
_MERGED_AT = 8
"""Segments of one size at which FTS5 begins to make one of them. With its own 4, merging took twice the processor time."""
_LISTED = "rowid IN (SELECT value FROM json_each(?))"

_META = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations(
    id INTEGER PRIMARY KEY AUTOINCREMENT, tokeniser INTEGER NOT NULL, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS positions(
    generation INTEGER NOT NULL, number INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY(generation, number)) WITHOUT ROWID;
"""


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
            if db.execute("SELECT 1 FROM meta WHERE key = 'live'").fetchone():
                log.warning("the search index has tables of another, maybe a newer version: a new one begins")
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?), ('live', ?)", (SCHEMA, new_generation(db)))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _known(db: sqlite3.Connection) -> bool:
    found = dict(db.execute("SELECT key, value FROM meta"))
    return "live" in found and found.get("schema") == SCHEMA and maker_of(db, found["live"]) < (LAYOUT + 1) * 1000


def live_generation(db: sqlite3.Connection) -> int:
    """The generation that is searched."""
    (generation,) = db.execute("SELECT value FROM meta WHERE key = 'live'").fetchone()
    return int(generation)


def new_generation(db: sqlite3.Connection) -> int:
    """Create the tables of a generation; the caller holds the transaction."""
    generation = db.execute("INSERT INTO generations(tokeniser, position) VALUES (?, 0)", (made_by(),)).lastrowid
    assert generation is not None
    for statement in TABLES:
        db.execute(statement.format(g=generation))
    set_merging(db, generation)
    return generation


def set_merging(db: sqlite3.Connection, generation: int) -> None:
    """Have FTS5 merge as we want it, also in a generation of before."""
    fts = f"fts_{generation}"
    if db.execute(f"SELECT v FROM {fts}_config WHERE k = 'automerge'").fetchone() != (_MERGED_AT,):
        db.execute(f"INSERT INTO {fts}({fts}, rank) VALUES ('automerge', ?)", (_MERGED_AT,))


def drop_others(db: sqlite3.Connection, live: int) -> None:
    """Remove every generation but the live one, a table at a time."""
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        kind, _, generation = name.partition("_")
        if kind in KINDS and generation.isdigit() and int(generation) != live:
            db.execute(f"DROP TABLE IF EXISTS {name}")
    for key in ("purge", "overrun", "names", "vocabulary"):
        db.execute("DELETE FROM meta WHERE key LIKE ? AND key != ?", (f"{key}%", f"{key}_{live}"))
    db.execute("DELETE FROM positions WHERE generation != ?", (live,))
    db.execute("DELETE FROM generations WHERE id != ?", (live,))


class Generation:
    """Writes to one generation. Every method is one transaction."""

    def __init__(self, db: sqlite3.Connection, generation: int) -> None:
        self.db = db
        self.number = generation
        self._conversations: dict[str, int] = {}
        self._senders: dict[str, int] = {}
        self._devices: dict[str, int] = {}
        self._words: set[str] = set()
        self._docs = f"docs_{generation}"
        self._fts = f"fts_{generation}"
        self._purge = f"purge_{generation}"
        self._last: tuple[int, int] | None = None
        """Rowid and time of the last row in rowid order; None where it is to be looked up."""
        self._overrun: int | None = None
        self._taken = 0, 0
        """Rowids of which none is free, from the first up to before the second: where it was looked last."""
        self._layout = layout_of(db, generation)
        self.stale = maker_of(db, generation) != made_by()
        """Whether another tokeniser, or tables of an earlier layout, made it."""
        kinds = {"conversations": "conversation", "senders": "sender", "devices": "device"}
        if self._layout.number < 2:
            del kinds["devices"]  # those rows have the name itself
        self._names = Names(db, generation, kinds)
        self._vocabulary = Vocabulary(db, generation, self._unlearn)
        self._uncut = False
        """Whether names and words that were removed may be in the file, or the log, until that is cut."""

    def close(self) -> None:
        """Nothing: the connection is the engine's."""

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
            there = self._there(ids)
            asked = (json.dumps(list(there.values())),)
            bodies = self.db.execute(
                f"SELECT body FROM {self._docs} JOIN bodies_{self.number} USING (rowid) WHERE {_LISTED}", asked
            )
            words = {word for (body,) in bodies.fetchall() for word in unpacked(body).split()}
            if self._remove(_LISTED, asked):
                self._unlearn(words)
                self._note(_DUE)
            if not there.keys() >= set(ids):  # retention may have been there before
                self.db.execute(
                    "UPDATE meta SET value = value | ? WHERE key = ? AND value & ?", (_DUE, self._purge, _FORGOTTEN)
                )

    def _note(self, what: int) -> None:
        sql = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value | excluded.value"
        self.db.execute(sql, (self._purge, what))

    def purge(self) -> bool:
        """One step of merging all segments into one, which alone lets go of what was deleted, and behind that of removing the
        names and words that no message has any more; whether there is more to do.

        At the end the log is cut, which has what the file had before. What was deleted meanwhile has its turn only then, so
        that each comes to its end.
        """
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (self._purge,)).fetchone()
        if row is None or row[0] == _FORGOTTEN:
            return self._remove_unused()
        changes = self.db.total_changes
        with _Transaction(self):
            # A negative number begins: every segment is to be merged, however few there are. A positive one goes on.
            pages, state = (_MERGED, row[0]) if row[0] & _UNDER_WAY else (-_MERGED, _UNDER_WAY)
            self.db.execute(f"INSERT INTO {self._fts}({self._fts}, rank) VALUES ('merge', ?)", (pages,))
            merged = self.db.total_changes - changes >= 2
            self.db.execute("UPDATE meta SET value = ? WHERE key = ?", (state, self._purge))
        if merged:
            return True
        if not self._cut_log():
            return True
        if meanwhile := state & ~_UNDER_WAY:
            self.db.execute("UPDATE meta SET value = ? WHERE key = ?", (meanwhile, self._purge))
        else:
            self.db.execute("DELETE FROM meta WHERE key = ?", (self._purge,))
        return bool(meanwhile & _DUE) or self._names.due or self._vocabulary.due

    def _remove_unused(self) -> bool:
        for kind in (self._names, self._vocabulary):
            if kind.under_way or kind.due:
                with _Transaction(self):
                    if not kind.under_way:
                        self._forget_numbers()
                        kind.begin()
                    more = kind.step()
                if more:
                    return True
                self._uncut = True
        if self._uncut:
            self._uncut = not self._cut_log()
        return self._uncut

    def _cut_log(self) -> bool:
        """Whether the log is moved into the file, and empty; not where somebody reads."""
        ((busy, _, _),) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy

    def forget(self, topic: str, before_seq: int) -> bool:
        """Remove some hundred of a conversation's messages with seq < ``before_seq``; whether there may be more."""
        row = self.db.execute(f"SELECT id FROM conversations_{self.number} WHERE name = ?", (topic,)).fetchone()
        if row is None:
            return False
        due = f"SELECT rowid FROM {self._docs} WHERE conversation = ? AND seq < ?"
        if self.db.execute(f"{due} LIMIT 1", (row[0], before_seq)).fetchone() is None:
            return False
        with _Transaction(self):
            removed = self._remove(f"rowid IN ({due} ORDER BY seq LIMIT ?)", (row[0], before_seq, _FORGOTTEN_AT_ONCE))
            if self.db.execute(f"SELECT 1 FROM {self._docs} WHERE conversation = ? LIMIT 1", row).fetchone() is None:
                self.db.execute(f"DELETE FROM conversations_{self.number} WHERE id = ?", row)
                self._conversations.pop(topic, None)
            if removed:
                self._note(_FORGOTTEN)
                self._vocabulary.removed()
        return removed == _FORGOTTEN_AT_ONCE

    def reset_caches(self) -> None:
        """Forget what a transaction that was rolled back may have put there."""
        self._forget_numbers()
        self._names.abandon()
        self._vocabulary.abandon()
        self._words.clear()
        self._last = self._overrun = None
        self._taken = 0, 0

    def _forget_numbers(self) -> None:
        self._conversations.clear()
        self._senders.clear()
        self._devices.clear()

    def _there(self, ids: Collection[int]) -> dict[int, int]:
        """The rowids of those of the messages that are there, by id."""
        sql = f"SELECT id, rowid FROM {self._docs} WHERE id >= 0 AND id IN (SELECT value FROM json_each(?))"
        found = dict(self.db.execute(sql, (json.dumps(list(ids)),)).fetchall())
        if not self._layout.earlier:
            wanted = frozenset(ids)
            sql = f"""SELECT {self._layout.id}, d.rowid FROM {self._docs} d
                WHERE d.rowid BETWEEN ? AND ? AND (d.id IS NULL OR d.id < 0)"""
            for first, last in self._ranges(ids):
                found.update((id, rowid) for id, rowid in self.db.execute(sql, (first, last)) if id in wanted)
        return found

    def _ranges(self, ids: Iterable[int]) -> Iterable[tuple[int, int]]:
        """Where in rowid order messages are whose rows tell their ids, if they are there."""
        slots, (end, _) = self._layout.slots, self._end()
        low, high = -1, -1
        for time in sorted({time_of(id) for id in ids if number_of(id) == 0}):
            if time * slots > end:
                break
            if time * slots > high + 1:
                if high >= 0:
                    yield low, high
                low = time * slots
            high = (time + AHEAD) * slots
        if high >= 0:
            yield low, high

    def _insert(self, batch: Sequence[Document]) -> None:
        there = set(self._there([document.id for document in batch]))
        docs: list[tuple[object, ...]] = []
        rows, bodies, words = [], [], set()
        layout, latest = self._layout, 0
        slots, earlier = layout.slots, layout.earlier
        conversations, senders, devices = self._conversations, self._senders, self._devices
        for id, topic, seq, user, device, time, text in batch:
            if id in there:
                continue
            there.add(id)
            spaced, parts = cut(text)
            words.update(parts)
            conversation = conversations.get(topic) or self._number("conversations", conversations, topic)
            sender = senders.get(user) or self._number("senders", senders, user)
            by = device if layout.number < 2 else devices.get(device) or self._number("devices", devices, device)
            rowid = self._place(id, time, docs)
            late = time - rowid // slots
            if late + latest < 0:
                latest = -late
            docs.append((rowid, kept_id(layout, id, rowid), conversation, sender, seq, time if earlier else late, by))
            bodies.append((rowid, packed(parts)))
            rows.append((rowid, spaced, term("c", conversation, earlier), term("s", sender, earlier)))
        self._insert_docs(docs)
        self._note_overrun(latest)
        self.db.executemany(f"INSERT INTO bodies_{self.number} VALUES (?, ?)", bodies)
        self.db.executemany(f"INSERT INTO {self._fts}(rowid, body, conversation, sender) VALUES (?, ?, ?, ?)", rows)
        self._learn(words)

    def _note_overrun(self, latest: int) -> None:
        """Have who looks for a time look that far."""
        if self._overrun is None:
            self._overrun = overrun_of(self.db, self.number)
        if latest > self._overrun:
            self._overrun = latest
            self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"overrun_{self.number}", latest))

    def _place(self, id: int, time: int, docs: list[tuple[object, ...]]) -> int:
        """The rowid of a message. ``docs`` are not inserted yet."""
        rowid, (last, last_time) = first_slot(self._layout, id, time), self._last or self._end()
        if rowid <= last and time >= last_time:
            rowid = last + 1
        elif rowid <= last:
            self._insert_docs(docs)  # where it looks, they must be
            docs.clear()
            rowid = self._free_from(rowid)
        if rowid > last:
            self._last = rowid, time
        return rowid

    def _end(self) -> tuple[int, int]:
        if self._last is None:
            sql = f"SELECT d.rowid, {self._layout.time} FROM {self._docs} d ORDER BY d.rowid DESC LIMIT 1"
            self._last = self.db.execute(sql).fetchone() or (0, 0)
        return self._last

    def _insert_docs(self, docs: Sequence[tuple[object, ...]]) -> None:
        self.db.executemany(f"INSERT INTO {self._docs} VALUES (?, ?, ?, ?, ?, ?, ?)", docs)

    def _free_from(self, rowid: int) -> int:
        """The first free rowid from there on, which is behind the others of its time that are in their place. It is taken.

        Where a burst stands, all are taken for seconds: what comes behind it one by one is not to go through it each time.
        """
        first, end = self._taken
        if not first <= rowid <= end:
            first = end = rowid
        for (taken,) in self.db.execute(f"SELECT rowid FROM {self._docs} WHERE rowid >= ? ORDER BY rowid", (end,)):
            if taken != end:
                break
            end += 1
        self._taken = first, end + 1
        return end

    def _number(self, kind: str, cache: dict[str, int], name: str) -> int:
        table, number = f"{kind}_{self.number}", cache.get(name)
        if number is None:
            row = self.db.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchone()
            if row is None:
                row = (self.db.execute(f"INSERT INTO {table}(name) VALUES (?)", (name,)).lastrowid,)
            if len(cache) >= _KNOWN:
                cache.clear()
            number = cache[name] = int(row[0])
            if self._names.under_way:
                self._names.used(kind, number)
        return number

    def _learn(self, words: Iterable[str]) -> None:
        """Remember the words that a typo could mean. Those without hits do no harm until they go."""
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
        earlier = self._layout.earlier
        rows = [
            (rowid, unpacked(body), term("c", conversation, earlier), term("s", sender, earlier))
            for rowid, body, conversation, sender in self.db.execute(
                f"SELECT rowid, body, conversation, sender FROM {source} WHERE {where}", parameters
            ).fetchall()
        ]
        delete = f"INSERT INTO {self._fts}({self._fts}, rowid, body, conversation, sender) VALUES ('delete', ?, ?, ?, ?)"
        self.db.executemany(delete, rows)
        for table in (self._docs, f"bodies_{self.number}"):
            self.db.executemany(f"DELETE FROM {table} WHERE rowid = ?", [row[:1] for row in rows])
        if rows:
            self._names.removed()
        self._last, self._taken = None, (0, 0)
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
