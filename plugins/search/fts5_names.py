"""Removing names of which no message is left from the tables of the embedded index. Runs in the engine's writer thread.

Nothing counts the messages of a name, and no index leads from it to them: that would cost with each message. So all rows are
gone through, some at a time, when something was removed. What no row names by the end, and nobody has used since, goes.
"""

from __future__ import annotations

import sqlite3

from plugins.search.fts5_sweep import Sweep

_AT_ONCE = 20_000
"""Rows that one step goes through: some tens of milliseconds."""


class Names(Sweep[int]):
    """The names of one generation. ``columns``: by kind of name, the column of ``docs_<g>`` that has its number."""

    def __init__(self, db: sqlite3.Connection, generation: int, columns: dict[str, str]) -> None:
        super().__init__(db, f"names_{generation}")
        self._generation = generation
        self._columns = columns

    def used(self, kind: str, number: int) -> None:
        """A message that comes now has the name of this number."""
        if kind in self._columns:
            self._db.execute(f"DELETE FROM temp.{self._unused(kind)} WHERE id = ?", (number,))

    def begin(self) -> None:
        """Take all names for unused, in the caller's transaction. Who remembers numbers of names forgets them first, so that
        `used` hears of each that is used from here on."""
        for kind in self._columns:
            self._db.execute(f"DROP TABLE IF EXISTS temp.{self._unused(kind)}")
            self._db.execute(f"CREATE TEMP TABLE {self._unused(kind)}(id INTEGER PRIMARY KEY)")
            self._db.execute(f"INSERT INTO temp.{self._unused(kind)} SELECT id FROM {kind}_{self._generation}")
        self._begin(-1)

    def step(self) -> bool:
        """Go through some rows, in the caller's transaction; whether there are more. Behind the last one the names go."""
        docs, after = f"docs_{self._generation}", self._after
        some = f"SELECT rowid FROM {docs} WHERE rowid > ? ORDER BY rowid LIMIT ?"
        (last,) = self._db.execute(f"SELECT max(rowid) FROM ({some})", (after, _AT_ONCE)).fetchone()
        for kind, column in self._columns.items():
            unused = f"temp.{self._unused(kind)}"
            if last is not None:
                named = f"SELECT {column} FROM {docs} WHERE rowid > ? AND rowid <= ?"
                self._db.execute(f"DELETE FROM {unused} WHERE id IN ({named})", (after, last))
            else:
                self._db.execute(f"DELETE FROM {kind}_{self._generation} WHERE id IN (SELECT id FROM {unused})")
                self._db.execute(f"DROP TABLE {unused}")
        return self._gone_through(last)

    def _unused(self, kind: str) -> str:
        return f"unused_{kind}_{self._generation}"
