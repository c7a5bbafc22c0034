"""Participation, read positions, bearer tokens, settings, and the state of jobs: their rows and their queries."""

from __future__ import annotations

import json
import sqlite3

from storage import rules
from storage.interface import Membership
from storage.records import (
    DropSetting,
    DropTokens,
    JobState,
    Join,
    MarkRead,
    SaveJob,
    SaveSetting,
    SaveToken,
    Setting,
    Token,
)
from storage.sqlite.queries import CONVERSATION_HEAD

_JOIN = """
    INSERT INTO participants (user, topic, joined)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), 1 FROM json_each(?) WHERE true
    ON CONFLICT (user, topic) DO UPDATE SET joined = 1 WHERE joined = 0
"""
_MARK = """
    INSERT INTO participants (user, topic, joined, position) VALUES (?, ?, 0, ?)
    ON CONFLICT (user, topic) DO UPDATE SET position = excluded.position
"""
_POSITION = "SELECT position FROM participants WHERE user = ? AND topic = ?"
_MEMBERSHIPS = f"""
    SELECT p.topic, ifnull(c.floor, 0) + 1, iif(c.id IS NULL, 0, {CONVERSATION_HEAD}), p.position
    FROM participants AS p LEFT JOIN conversations AS c ON c.topic = p.topic
    WHERE p.user = ? AND p.joined = 1 AND p.topic > ? ORDER BY p.topic LIMIT ?
"""
_EXPIRED = """
    SELECT count(*) FROM store WHERE conversation = (SELECT id FROM conversations WHERE topic = ?)
    AND seq > ? AND expires > 0 AND expires <= ?
"""
_SENT = """
    SELECT count(*) FROM store WHERE conversation = (SELECT id FROM conversations WHERE topic = ?)
    AND seq > ? AND user = ? AND (expires = 0 OR expires > ?)
"""
_TOKENS = "SELECT id, digest, user, label, created, expires FROM tokens"


def join(connection: sqlite3.Connection, op: Join) -> None:
    """Add the pairs that are new."""
    connection.execute(_JOIN, (json.dumps(list(op.pairs)),))


def mark(connection: sqlite3.Connection, op: MarkRead, last: int) -> None:
    """Move a read position; ``last`` is the conversation's last sequence here."""
    before = read_position(connection, op.user, op.topic)
    op.last = last
    op.position = rules.read_position(op, before, last)
    if op.position != before:
        connection.execute(_MARK, (op.user, op.topic, op.position))


def save_token(connection: sqlite3.Connection, op: SaveToken) -> None:
    """Add or replace a token."""
    connection.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?)", op.token)


def drop_tokens(connection: sqlite3.Connection, op: DropTokens) -> None:
    """Remove tokens."""
    connection.execute("DELETE FROM tokens WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(op.ids)),))


def memberships(connection: sqlite3.Connection, user: str, after: str, limit: int) -> list[Membership]:
    """A page of a user's conversations, by name."""
    return [Membership(*row) for row in connection.execute(_MEMBERSHIPS, (user, after, limit)).fetchall()]


def takes_part(connection: sqlite3.Connection, user: str, topic: str) -> bool:
    """Whether the pair was joined."""
    query = "SELECT 1 FROM participants WHERE user = ? AND topic = ? AND joined = 1"
    return bool(connection.execute(query, (user, topic)).fetchall())


def read_position(connection: sqlite3.Connection, user: str, topic: str) -> int:
    """How far a user has read; 0 where nothing was marked."""
    found = connection.execute(_POSITION, (user, topic)).fetchall()
    return int(found[0][0]) if found else 0


def expired_between(connection: sqlite3.Connection, topic: str, after: int, now: int) -> int:
    """How many messages past a sequence have expired; counted in an index of those that expire at all."""
    return int(connection.execute(_EXPIRED, (topic, after, now)).fetchall()[0][0])


def sent_between(connection: sqlite3.Connection, topic: str, user: str, after: int, now: int) -> int:
    """How many messages past a sequence a user sent; each is looked at."""
    return int(connection.execute(_SENT, (topic, after, user, now)).fetchall()[0][0])


def token(connection: sqlite3.Connection, digest: str) -> Token | None:
    """The token of a digest."""
    found = connection.execute(f"{_TOKENS} WHERE digest = ?", (digest,)).fetchall()
    return Token(*found[0]) if found else None


def tokens(connection: sqlite3.Connection, user: str) -> list[Token]:
    """A user's tokens, or all, by creation."""
    query, arguments = (f"{_TOKENS} WHERE user = ?", (user,)) if user else (_TOKENS, ())
    return [Token(*row) for row in connection.execute(f"{query} ORDER BY created, id", arguments).fetchall()]


def save_job(connection: sqlite3.Connection, op: SaveJob) -> None:
    """Add or replace the state of a job."""
    connection.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", op.job)


def jobs(connection: sqlite3.Connection) -> list[JobState]:
    """Every job's state; none where the file is older than jobs are, and is only read."""
    if not _has(connection, "jobs"):
        return []
    query = "SELECT name, schedule, next_run, started, ended, outcome, detail FROM jobs ORDER BY name"
    return [JobState(*row) for row in connection.execute(query).fetchall()]


def save_setting(connection: sqlite3.Connection, op: SaveSetting) -> None:
    """Add or replace a setting."""
    rules.refuse_large_setting(op)
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (op.kind, op.key, op.value))


def drop_setting(connection: sqlite3.Connection, op: DropSetting) -> None:
    """Remove a setting."""
    connection.execute("DELETE FROM settings WHERE kind = ? AND key = ?", (op.kind, op.key))


def settings(connection: sqlite3.Connection, kind: str) -> list[Setting]:
    """The settings of a kind, or all; none where the file is older than they are, and is only read."""
    if not _has(connection, "settings"):
        return []
    where, arguments = (" WHERE kind = ?", (kind,)) if kind else ("", ())
    query = f"SELECT kind, key, value FROM settings{where} ORDER BY kind, key"
    return [Setting(*row) for row in connection.execute(query, arguments).fetchall()]


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchall())
