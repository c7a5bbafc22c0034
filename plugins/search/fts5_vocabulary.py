"""Removing words of which no message is left from the vocabulary of the embedded index. Runs in the engine's writer thread.

A deletion looks at the words of its messages at once. What retention removes has too many for that: the vocabulary is gone
through behind it, some words at a time, when the engine's files are seen to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from plugins.search.fts5_sweep import Sweep

_AT_ONCE = 1000
"""Words that one step looks for: some tens of milliseconds."""


class Vocabulary(Sweep[tuple[str, int, str]]):
    """The words of one generation; ``unlearn`` removes those of some that no message has."""

    def __init__(self, db: sqlite3.Connection, generation: int, unlearn: Callable[[Iterable[str]], None]) -> None:
        super().__init__(db, f"vocabulary_{generation}")
        self._table = f"words_{generation}"
        self._unlearn = unlearn

    def begin(self) -> None:
        """Go through all words, in the caller's transaction."""
        self._begin(("", 0, ""))

    def step(self) -> bool:
        """Look at some words, in the caller's transaction; whether there are more."""
        some = f"SELECT first, length, word FROM {self._table} WHERE (first, length, word) > (?, ?, ?) ORDER BY 1, 2, 3 LIMIT ?"
        found = self._db.execute(some, (*(self._after or ()), _AT_ONCE)).fetchall()
        self._unlearn([word for _, _, word in found])
        return self._gone_through(found[-1] if found else None)
