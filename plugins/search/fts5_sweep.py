"""Going through a table of the embedded index behind what was removed, some rows at a time. Runs in the writer thread."""

from __future__ import annotations

import sqlite3
from typing import Generic, TypeVar

_DUE, _UNDER_WAY = 1, 2
P = TypeVar("P")


class Sweep(Generic[P]):
    """One such work of a generation, by the ``key`` under which ``meta`` has whether there is something to do. How far it has
    come is not there: after a start it begins again."""

    def __init__(self, db: sqlite3.Connection, key: str) -> None:
        self._db = db
        self._key = key
        self._after: P | None = None
        """The last row that was gone through; None where nothing is under way."""

    @property
    def under_way(self) -> bool:
        """Whether it has begun."""
        return self._after is not None

    @property
    def due(self) -> bool:
        """Whether messages were removed behind which nothing was gone through."""
        return self._db.execute("SELECT 1 FROM meta WHERE key = ?", (self._key,)).fetchone() is not None

    def removed(self) -> None:
        """Messages were removed, in the caller's transaction."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (self._key, _DUE))

    def abandon(self) -> None:
        """Begin again at the next step: the caller's transaction was rolled back."""
        self._after = None

    def _begin(self, before_all: P) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (_UNDER_WAY, self._key))
        self._after = before_all

    def _gone_through(self, after: P | None) -> bool:
        """Up to here, or all of it: whether there is more."""
        self._after = after
        if after is None:  # of what was removed meanwhile some was passed by: that has its turn later
            self._db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (self._key, _UNDER_WAY))
        return self.under_way
