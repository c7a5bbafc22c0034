"""Removing words of which no message is left from the vocabulary of the embedded index. Runs in the engine's writer thread.

A deletion looks at the words of its messages at once. What retention removes has too many for that: the vocabulary is gone
through behind it, some words at a time, when the engine's files are seen to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

_AT_ONCE = 1000
"""Words that one step looks for: some tens of milliseconds."""
_DUE, _UNDER_WAY = 1, 2


class Vocabulary:
    """The words of one generation; ``unlearn`` removes those of some that no message has.

    Whether there is something to do is in ``meta``; how far this has come is not: after a start it begins again.
    """

    def __init__(self, db: sqlite3.Connection, generation: int, unlearn: Callable[[Iterable[str]], None]) -> None:
        self._db = db
        self._table = f"words_{generation}"
        self._key = f"vocabulary_{generation}"
        self._unlearn = unlearn
        self._after: tuple[str, int, str] | None = None
        """The last word that was looked for; None where nothing is under way."""

    @property
    def under_way(self) -> bool:
        """Whether it has begun."""
        return self._after is not None

    @property
    def due(self) -> bool:
        """Whether messages were removed whose words have not been looked at."""
        return self._db.execute("SELECT 1 FROM meta WHERE key = ?", (self._key,)).fetchone() is not None

    def removed(self) -> None:
        """Messages were removed, in the caller's transaction, and their words were not looked at."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (self._key, _DUE))

    def abandon(self) -> None:
        """Begin again at the next step: the caller's transaction was rolled back."""
        self._after = None

    def begin(self) -> None:
        """Go through all words, in the caller's transaction."""
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (_UNDER_WAY, self._key))
        self._after = ("", 0, "")

    def step(self) -> bool:
        """Look at some words, in the caller's transaction; whether there are more."""
        some = f"SELECT first, length, word FROM {self._table} WHERE (first, length, word) > (?, ?, ?) ORDER BY 1, 2, 3 LIMIT ?"
        found = self._db.execute(some, (*(self._after or ()), _AT_ONCE)).fetchall()
        self._unlearn([word for _, _, word in found])
        self._after = found[-1] if found else None
        if self._after is None:  # of what was removed meanwhile some was passed by: that has its turn later
            self._db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (self._key, _UNDER_WAY))
        return self.under_way
