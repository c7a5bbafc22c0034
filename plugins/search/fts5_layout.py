"""The tables of a generation of the embedded index, by layout, and how a row tells a message's id and time.

A row's number is where its message's time is, in slots, of which a millisecond has `Layout.slots`; those of messages that
are appended rise. The lists of the inverted index keep what is between two such numbers, so fewer slots make shorter
lists. Where there are more messages than slots, a row stands later than its time, and what looks for a time looks as far
as the latest one stands (`overrun_of`). ``id`` has what the rowid does not tell:

- null: the id was given in the row's millisecond, and its count is the row's slot;
- below 0, -1 - n: it was given n >> 12 milliseconds earlier, and its count is n & 4095;
- else the id itself, which alone is in an index. So are ids of a cluster's nodes, and of messages whose time is another.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from broker.ids import EPOCH, time_of
from plugins.search.text import TOKENISER
from storage.cluster import number_of

LAYOUT = 2
"""Of the tables of a generation. Where it is an earlier one's, the generation is in use until another one is built."""
SLOTS = 16
"""Rowids per millisecond: several times what FTS5 can index."""
_EARLIER_SLOTS = 4096
OVERRUN = 1000
"""Milliseconds by which a row may be early or late in rowid order, where `overrun_of` says no more: its id's time is not quite
the message's, or its own ms was full."""
AHEAD: Final = 256
"""Milliseconds by which a row may be later than its id and yet tell it."""
_COUNTS = 4096
"""Ids per millisecond."""
_FIRST_PLANE = 0xD700
"""Numbers that are characters of Unicode's first plane, below its surrogates."""

TABLES = (
    """CREATE TABLE docs_{g}(rowid INTEGER PRIMARY KEY, id INTEGER, conversation INTEGER NOT NULL,
    sender INTEGER NOT NULL, seq INTEGER NOT NULL, late INTEGER NOT NULL, device INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX docs_{g}_id ON docs_{g}(id) WHERE id >= 0",
    "CREATE INDEX docs_{g}_seq ON docs_{g}(conversation, seq)",
    "CREATE TABLE bodies_{g}(rowid INTEGER PRIMARY KEY, body NOT NULL)",
    """CREATE VIRTUAL TABLE fts_{g} USING fts5(body, conversation, sender, content='', columnsize=0, tokenize='ascii',
    prefix='2')""",
    "CREATE TABLE conversations_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE senders_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE devices_{g}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE words_{g}(first TEXT, length INTEGER, word TEXT, PRIMARY KEY(first, length, word)) WITHOUT ROWID",
)
KINDS = frozenset(statement.split("_{g}")[0].split()[-1] for statement in TABLES)
"""What the names of tables begin with."""


class Layout(NamedTuple):
    """How to read and write a generation. ``id``, ``time`` and ``device`` are SQL over the row ``d`` of ``docs_<g>``."""

    number: int
    slots: int
    id: str
    time: str
    device: str

    @property
    def earlier(self) -> bool:
        """Whether the tables are of before there were layouts: each row with its id and its time."""
        return self.number == 0


def made_by() -> int:
    """The versions of the tables and of the tokeniser, as one number."""
    return LAYOUT * 1000 + TOKENISER


def maker_of(db: sqlite3.Connection, generation: int) -> int:
    """What `made_by` was when a generation was begun."""
    (maker,) = db.execute("SELECT tokeniser FROM generations WHERE id = ?", (generation,)).fetchone()
    return int(maker)


def layout_of(db: sqlite3.Connection, generation: int) -> Layout:
    """The layout of a generation."""
    number = maker_of(db, generation) // 1000
    if number == 0:
        return Layout(0, _EARLIER_SLOTS, "d.id", "d.time", "d.device")
    slots = _EARLIER_SLOTS if number == 1 else SLOTS
    device = "d.device" if number == 1 else f"(SELECT name FROM devices_{generation} WHERE id = d.device)"
    given = f"d.rowid / {slots} - {EPOCH}"
    id = (
        f"CASE WHEN d.id IS NULL THEN ({given}) << 22 | d.rowid % {slots}"
        f" WHEN d.id < 0 THEN ({given} - (-1 - d.id) / {_COUNTS}) << 22 | (-1 - d.id) % {_COUNTS} ELSE d.id END"
    )
    return Layout(number, slots, id, f"(d.rowid / {slots} + d.late)", device)


def overrun_of(db: sqlite3.Connection, generation: int) -> int:
    """Milliseconds by which a row of a generation may be late in rowid order."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (f"overrun_{generation}",)).fetchone()
    return max(OVERRUN, row[0]) if row else OVERRUN


def first_slot(layout: Layout, id: int, time: int) -> int:
    """Where in rowid order a message belongs: by its id, where that was given at about its time, so that it tells its id."""
    given = time_of(id)
    if layout.number == 0 or number_of(id) or abs(time - given) > OVERRUN:
        return max(0, time) * layout.slots
    return given * layout.slots + min(id % _COUNTS, layout.slots)


def kept_id(layout: Layout, id: int, rowid: int) -> int | None:
    """What ``id`` of a row has."""
    ahead, count = rowid // layout.slots - time_of(id), id % _COUNTS
    if layout.number == 0 or number_of(id):
        return id
    if ahead == 0 and count == rowid % layout.slots:
        return None
    return -1 - (ahead * _COUNTS + count) if layout.number > 1 and 0 <= ahead < AHEAD else id


def term(kind: str, number: int, earlier: bool) -> str:
    """The number of a conversation (``c``) or a sender (``s``) as a term: of one character, so that it is in no list of
    beginnings, or, of a number beyond a million, of two. With ``earlier`` tables (`Layout`) it was written out."""
    if earlier:
        return f"{kind}{number}"
    if number < _FIRST_PLANE:
        return chr(0x100 + number)
    higher, number = divmod(number - _FIRST_PLANE, 0x100000)
    return chr(0x10000 + number) + (chr(0x100 + higher) if higher else "")
