"""Removing names of which no message is left from the tables of the embedded index. Runs in the engine's writer thread.

Nothing counts the messages of a name, and no index leads from it to them: that would cost with each message. So all rows are
gone through, some at a time, when something was removed. What no row names by the end, and nobody has used since, goes.
"""

from __future__ import annotations

import sqlite3

_AT_ONCE = 20_000
"""Rows that one step goes through: some tens of milliseconds."""
_DUE, _UNDER_WAY = 1, 2


class Names:
    """The names of one generation. ``columns``: by kind of name, the column of ``docs_<g>`` that has its number.

    Whether there is something to do is in ``meta``; how far this has come is not: after a start it begins again.
    """

    def __init__(self, db: sqlite3.Connection, generation: int, columns: dict[str, str]) -> None:
        self._db = db
        self._generation = generation
        self._columns = columns
        self._key = f"names_{generation}"
        self._after: int | None = None
        """The last row that was gone through; None where nothing is under way."""

    @property
    def under_way(self) -> bool:
        """Whether it has begun, and has to be told what is `used`."""
        return self._after is not None

    @property
    def due(self) -> bool:
        """Whether messages were removed whose names have not been looked at."""
        return self._db.execute("SELECT 1 FROM meta WHERE key = ?", (self._key,)).fetchone() is not None

    def removed(self) -> None:
        """Messages were removed, in the caller's transaction."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (self._key, _DUE))

    def used(self, kind: str, number: int) -> None:
        """A message that comes now has the name of this number."""
        if kind in self._columns:
            self._db.execute(f"DELETE FROM temp.{self._unused(kind)} WHERE id = ?", (number,))

    def abandon(self) -> None:
        """Begin again at the next step: the caller's transaction was rolled back."""
        self._after = None

    def begin(self) -> None:
        """Take all names for unused, in the caller's transaction. Who remembers numbers of names forgets them first, so that
        `used` hears of each that is used from here on."""
        for kind in self._columns:
            self._db.execute(f"DROP TABLE IF EXISTS temp.{self._unused(kind)}")
            self._db.execute(f"CREATE TEMP TABLE {self._unused(kind)}(id INTEGER PRIMARY KEY)")
            self._db.execute(f"INSERT INTO temp.{self._unused(kind)} SELECT id FROM {kind}_{self._generation}")
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (_UNDER_WAY, self._key))
        self._after = -1

    def step(self) -> bool:
        """Go through some rows, in the caller's transaction; whether there are more. Behind the last one the names go."""
        docs, after = f"docs_{self._generation}", self._after
        some = f"SELECT rowid FROM {docs} WHERE rowid > ? ORDER BY rowid LIMIT ?"
        (self._after,) = self._db.execute(f"SELECT max(rowid) FROM ({some})", (after, _AT_ONCE)).fetchone()
        for kind, column in self._columns.items():
            unused = f"temp.{self._unused(kind)}"
            if self._after is not None:
                named = f"SELECT {column} FROM {docs} WHERE rowid > ? AND rowid <= ?"
                self._db.execute(f"DELETE FROM {unused} WHERE id IN ({named})", (after, self._after))
            else:
                self._db.execute(f"DELETE FROM {kind}_{self._generation} WHERE id IN (SELECT id FROM {unused})")
                self._db.execute(f"DROP TABLE {unused}")
        if self._after is None:  # of what was removed meanwhile some was passed by: that has its turn later
            self._db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (self._key, _UNDER_WAY))
        return self.under_way

    def _unused(self, kind: str) -> str:
        return f"unused_{kind}_{self._generation}"
