"""Removal from the old end of a timeline, in short transactions of the writing thread, and what inboxes still point to."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from storage.interface import Pointer
from storage.sqlite.runs import remove_through
from storage.sqlite.unsound import PAGE, Page, unreadable, unsound_among, unsound_behind

STEP = 500
"""Rows per transaction: a commit waits for one of them at most."""
STEP_BYTES = 4 << 20
"""Bytes of payload per transaction, but for the last of them: all of it is overwritten (`connect_writer`), through the log."""

_CONVERSATION = """
    SELECT id, floor, ifnull((SELECT seq FROM store WHERE conversation = c.id ORDER BY seq DESC LIMIT 1), floor)
    FROM conversations AS c WHERE topic = ?
"""
_INBOX = """
    SELECT id, floor, ifnull((SELECT seq FROM sync WHERE user = u.id ORDER BY seq DESC LIMIT 1), floor)
    FROM users AS u WHERE key = ?
"""
_POINTERS = f"""
    SELECT json_group_array(json_array(entry.seq, ifnull(c.topic, ''), ifnull(m.seq, 0))), {PAGE.format(e="entry")} FROM (
        SELECT seq, message, last FROM entries WHERE user = (SELECT id FROM users WHERE key = ?1) AND last > ?2 AND seq > ?2
        ORDER BY last LIMIT ?3
    ) AS entry LEFT JOIN store AS m ON m.id = entry.message LEFT JOIN conversations AS c ON c.id = m.conversation
"""
_BYTES = "SELECT ifnull(sum(length(payload)), 0) FROM store WHERE conversation = ? AND seq <= ?"
"""SQLite knows a length without reading the pages that a large payload has of its own."""
_FIRST_BYTES = """
    SELECT max(seq), sum(size) FROM (
        SELECT seq, length(payload) AS size, sum(length(payload)) OVER (ORDER BY seq) - length(payload) AS before
        FROM store WHERE conversation = ? AND seq <= ?
    ) WHERE before < ?
"""
_LAST_ID = "UPDATE meta SET value = max(value, (SELECT ifnull(max(id), 0) FROM store)) WHERE key = 'last_id'"


class Pruned(NamedTuple):
    """What a step removed: so many entries, with so many bytes of payload. ``more``: there is more to be removed."""

    entries: int = 0
    size: int = 0
    more: bool = False


def prune_conversation(connection: sqlite3.Connection, topic: str, before: int, limit: int) -> Pruned:
    """Remove up to ``limit`` messages with seq < ``before``, or fewer where they are large. One transaction."""
    found = connection.execute(_CONVERSATION, (topic,)).fetchall()
    if not found:
        return Pruned()
    number, floor, head = found[0]
    end = min(before - 1, head)
    last = min(end, floor + limit)
    if last <= floor:
        return Pruned()
    ((size,),) = connection.execute(_BYTES, (number, last)).fetchall()
    if size > STEP_BYTES:
        ((last, size),) = connection.execute(_FIRST_BYTES, (number, last, STEP_BYTES)).fetchall()
    connection.execute("BEGIN IMMEDIATE")
    place = (number, last)
    query = "SELECT time, id = (SELECT max(id) FROM store) FROM store WHERE conversation = ? AND seq = ?"
    ((time, newest),) = connection.execute(query, place).fetchall()
    if newest:
        connection.execute(_LAST_ID)
    connection.execute("DELETE FROM store WHERE conversation = ? AND seq <= ?", place)
    connection.execute("UPDATE conversations SET floor = ?, floor_time = ? WHERE id = ?", (last, time, number))
    connection.execute("COMMIT")
    return Pruned(last - floor, size, last < end)


def prune_inbox(connection: sqlite3.Connection, user: str, before: int, limit: int) -> Pruned:
    """Remove up to ``limit`` entries with seq < ``before``. One transaction."""
    found = connection.execute(_INBOX, (user,)).fetchall()
    if not found:
        return Pruned()
    number, floor, head = found[0]
    end = min(before - 1, head)
    last = min(end, floor + limit)
    if last <= floor:
        return Pruned()
    connection.execute("BEGIN IMMEDIATE")
    remove_through(connection, number, last)
    connection.execute("UPDATE users SET floor = ? WHERE id = ?", (last, number))
    connection.execute("COMMIT")
    return Pruned(last - floor, 0, last < end)


def pointers(connection: sqlite3.Connection, user: str, after: int, limit: int) -> list[Pointer]:
    """A page of what an inbox points to; one row, for the interpreter lock (see `storage.sqlite.pages`).

    Raises `UnreadableInbox` where a row does not say what its entries are, also if others come before it: a page that is short
    would say that the inbox ends there, and that nobody waits for what is behind.
    """
    try:
        ((found, *places),) = connection.execute(_POINTERS, (user, after, limit)).fetchall()
        damaged = unsound_among(connection, user, after, Page(*places))
    except sqlite3.OperationalError as error:
        damaged = unsound_behind(connection, user, after, error)
    if damaged is not None:
        raise unreadable(damaged)
    return [Pointer(*row) for row in json.loads(found)]
