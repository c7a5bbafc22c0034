"""Inbox entries that a group wrote one after the other share a row of ``sync``: a *run*.

A stream of messages to a user would else cost a row of 21 bytes, and SQLite's way into the tree, for each entry. A run has the
key of its last entry, so that the end of an inbox, and what comes after an offset, is found as if each entry had a row.
``run`` is a JSON array of how far below ``message`` each entry's message id is: ``[5,2,0]``. ``count`` is its length. An entry
alone has no array. Entries for one device are always alone, and so are those whose ids do not rise. What a row that is damaged
still says: `storage.sqlite.unsound`.

The view ``entries`` has a row for each entry: ``user``, ``seq``, ``message``, ``target``, and ``last``, the key of its run. Ask
it for a range of ``last``, and for ``ORDER BY last``: SQLite goes through the rows by their key, and through an array from its
beginning, so that entries come by ``seq``, and no row is read that is not needed. Any other order has it sort the whole inbox.
"""

from __future__ import annotations

import sqlite3
from typing import Final

LONGEST: Final = 100
"""Entries of a run: more would hardly make one cheaper, and a row of over a kilobyte would need a page of its own, which one
of ids of the same second or so has not."""

VERSION = 11
"""The schema's, since which there are runs."""

_COLUMNS = """
    s.user AS user, ifnull(s.seq - s.count + 1 + e.key, s.seq) AS seq, s.message - ifnull(e.value, 0) AS message,
    s.target AS target, s.seq AS last
"""

MIGRATION = f"""
ALTER TABLE sync ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE sync ADD COLUMN run TEXT;
CREATE VIEW entries AS SELECT {_COLUMNS} FROM sync AS s LEFT JOIN json_each(s.run) AS e;
"""


def entries_of(run: str) -> str:
    """The view's rows, with another expression in place of ``s.run``; of a row ``s`` for which it is NULL, the last entry."""
    return f"(SELECT {_COLUMNS} FROM sync AS s LEFT JOIN json_each({run}) AS e)"


READABLE = entries_of("iif(json_valid(s.run), s.run, NULL)")
"""The entries, for who commits: of a row that is damaged so that it is no JSON, the last one. The view ends the query by an
error there; that one inbox has such a row must not hold up what is due to all others."""

_REMOVE = "DELETE FROM sync WHERE user = :user AND seq <= :floor"
_CUT = f"""
    UPDATE sync SET count = seq - :floor,
        run = iif(json_valid(run), (
            SELECT json_group_array(e.value) FROM json_each(sync.run) AS e WHERE e.key >= sync.count - sync.seq + :floor), run)
    WHERE user = :user AND seq > :floor AND seq < :floor + {LONGEST} AND seq - count < :floor
"""
REMOVE_ENTRY = f"""
    UPDATE sync SET message = iif(run IS NULL, 0, message),
        run = json_replace(run, '$[' || (?2 - seq + count - 1) || ']', message)
    WHERE user = (SELECT id FROM users WHERE key = ?1) AND seq >= ?2 AND seq < ?2 + {LONGEST} AND seq - count < ?2
"""
"""An entry counts as removed then: no message has its id, 0."""


def run_of(ids: list[int]) -> str:
    """How far each message id is below the last one, as the column ``run`` has it. Empty for ids that do not rise, which are no
    run: that they do shows whether a run is damaged."""
    last = ids[-1]
    if sorted(set(ids)) != ids:
        return ""
    return "[" + ",".join([str(last - id) for id in ids]) + "]"


def remove_through(connection: sqlite3.Connection, user: int, floor: int) -> None:
    """Remove an inbox's entries up to ``floor``, in the caller's transaction."""
    place = {"user": user, "floor": floor}
    connection.execute(_REMOVE, place)
    connection.execute(_CUT, place)


def entries_in(version: int) -> str:
    """What to read entries from, with the columns of the view ``entries``, in a file of that schema version."""
    return "entries" if version >= VERSION else "(SELECT user, seq, message, target, seq AS last FROM sync)"
