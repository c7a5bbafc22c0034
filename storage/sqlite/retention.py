"""Removal from the old end of a timeline, in short transactions of the writing thread, and what inboxes still point to."""

from __future__ import annotations

import json
import sqlite3

from storage.interface import Pointer
from storage.sqlite.runs import remove_through
from storage.sqlite.unsound import PAGE, Page, unreadable, unsound_among, unsound_behind

STEP = 500
"""Rows per transaction: a commit waits for one of them at most."""

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
_LAST_ID = "UPDATE meta SET value = max(value, (SELECT ifnull(max(id), 0) FROM store)) WHERE key = 'last_id'"


def prune_conversation(connection: sqlite3.Connection, topic: str, before: int, limit: int) -> int:
    """Remove up to ``limit`` messages with seq < ``before``; how many were removed. One transaction."""
    found = connection.execute(_CONVERSATION, (topic,)).fetchall()
    if not found:
        return 0
    number, floor, head = found[0]
    last = min(before - 1, head, floor + limit)
    if last <= floor:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    place = (number, last)
    query = "SELECT time, id = (SELECT max(id) FROM store) FROM store WHERE conversation = ? AND seq = ?"
    ((time, newest),) = connection.execute(query, place).fetchall()
    if newest:
        connection.execute(_LAST_ID)
    connection.execute("DELETE FROM store WHERE conversation = ? AND seq <= ?", place)
    connection.execute("UPDATE conversations SET floor = ?, floor_time = ? WHERE id = ?", (last, time, number))
    connection.execute("COMMIT")
    return int(last - floor)


def prune_inbox(connection: sqlite3.Connection, user: str, before: int, limit: int) -> int:
    """Remove up to ``limit`` entries with seq < ``before``; how many were removed. One transaction."""
    found = connection.execute(_INBOX, (user,)).fetchall()
    if not found:
        return 0
    number, floor, head = found[0]
    last = min(before - 1, head, floor + limit)
    if last <= floor:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    remove_through(connection, number, last)
    connection.execute("UPDATE users SET floor = ? WHERE id = ?", (last, number))
    connection.execute("COMMIT")
    return int(last - floor)


def pointers(connection: sqlite3.Connection, user: str, after: int, limit: int) -> list[Pointer]:
    """A page of what an inbox points to; one row, for the interpreter lock (see `storage.sqlite.pages`).

    Raises `StorageUnusable` where a row does not say what its entries are, also if others come before it: a page that is short
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
