"""Removal from the old end of a timeline, in short transactions of the writing thread."""

from __future__ import annotations

import sqlite3

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
    connection.execute("DELETE FROM sync WHERE user = ? AND seq <= ?", (number, last))
    connection.execute("UPDATE users SET floor = ? WHERE id = ?", (last, number))
    connection.execute("COMMIT")
    return int(last - floor)
