"""The local copy, in one SQLite file: messages, read positions, and the outbox.

Each method is one transaction. Several threads may call them. Two clients on one file would both move the offset, and each
would miss what the other got: so SQLite locks the file for as long as it is open. The system ends that lock with the process,
however that ends.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

from tideline_client.errors import StoreInUse
from tideline_client.model import Message, Outgoing

_PATIENCE = 1.0
"""Seconds to wait for whoever has the file open: a backup may look at it for a moment."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, topic TEXT NOT NULL, seq INTEGER NOT NULL, sender TEXT NOT NULL,
    time INTEGER NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_topic ON messages (topic, seq);
CREATE TABLE IF NOT EXISTS positions (topic TEXT PRIMARY KEY, position INTEGER NOT NULL, told INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (place INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, topic TEXT NOT NULL,
    payload BLOB NOT NULL, receipt TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '');
DROP INDEX IF EXISTS outbox_topic;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_FIELDS = "id, topic, seq, sender, time, payload"


class Store:
    """``path``: a file, or ``:memory:``. Raises `StoreInUse` where another client has it open, and
    `sqlite3.DatabaseError` where it cannot be opened, or is another kind of file."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.RLock()
        settings = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
        try:
            self._connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)
            try:
                self._connection.executescript(f"{settings}; {_SCHEMA}")
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                what = "another client has it open: stop that one, or give this one a file of its own"
                raise StoreInUse(f"store {str(path)!r}: {what}") from error
            raise type(error)(f"store {str(path)!r}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> int:
        """Run statements as one; how many rows the first one changed."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                counts = [self._connection.execute(*statement).rowcount for statement in statements]
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return counts[0]

    def _read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # --- messages ----------------------------------------------------------------------------------------------------

    def take(self, message: Message, offset: int = 0) -> bool:
        """Keep a message, and how far the inbox was taken; False where it was there."""
        values = (message.id, message.topic, message.seq, message.sender, message.time, message.payload)
        kept = (f"INSERT OR IGNORE INTO messages ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?)", values)
        if not offset:
            return self._write(kept) > 0
        return self._write(kept, _meta("offset", max(offset, self.offset))) > 0

    def history(self, topic: str, limit: int, before: int = 0) -> list[Message]:
        """The newest messages of a conversation that are here, the oldest first."""
        query = f"SELECT {_FIELDS} FROM messages WHERE topic = ? AND (? = 0 OR seq < ?) ORDER BY seq DESC LIMIT ?"
        return [Message(*row) for row in reversed(self._read(query, topic, before, before, limit))]  # type: ignore[arg-type]

    def topics(self) -> list[str]:
        """The conversations that have messages here."""
        return [str(topic) for (topic,) in self._read("SELECT DISTINCT topic FROM messages ORDER BY topic")]

    # --- read positions ----------------------------------------------------------------------------------------------

    def unread(self, topic: str) -> int:
        """How many messages that are here come after the read position."""
        query = "SELECT count(*) FROM messages WHERE topic = ? AND seq > ?"
        return _number(self._read(query, topic, self.position(topic)))

    def position(self, topic: str) -> int:
        """How far the user has read."""
        return _number(self._read("SELECT position FROM positions WHERE topic = ?", topic))

    def read(self, topic: str, position: int, *, told: bool) -> None:
        """The user has read so far; ``told``: the broker knows. It never goes back."""
        update = "ON CONFLICT (topic) DO UPDATE SET position = excluded.position, told = excluded.told"
        newer = "WHERE excluded.position > position OR (excluded.position = position AND excluded.told > told)"
        self._write((f"INSERT INTO positions VALUES (?, ?, ?) {update} {newer}", (topic, position, int(told))))

    def untold(self) -> list[tuple[str, int]]:
        """Read positions that the broker does not know of."""
        return [(str(t), int(str(p))) for t, p in self._read("SELECT topic, position FROM positions WHERE told = 0")]

    # --- the outbox ----------------------------------------------------------------------------------------------------

    def put(self, message: Outgoing) -> None:
        """Keep a message until the broker has it."""
        values = (message.key, message.topic, message.payload, json.dumps(message.receipt))
        self._write(("INSERT INTO outbox (key, topic, payload, receipt) VALUES (?, ?, ?, ?)", values))

    def waiting(self) -> list[Outgoing]:
        """What the broker has not, in the order in which it was sent; also what it has refused."""
        return [message for _, message in self._outbox("ORDER BY place")]

    def unsent(self, after: int, limit: int) -> list[tuple[int, Outgoing]]:
        """What the broker has neither taken nor refused, behind a place; with the places, in order."""
        return self._outbox("WHERE place > ? AND reason = '' ORDER BY place LIMIT ?", after, limit)

    def _outbox(self, which: str, *values: object) -> list[tuple[int, Outgoing]]:
        rows = self._read(f"SELECT place, key, topic, payload, receipt, reason FROM outbox {which}", *values)
        return [
            (int(str(place)), Outgoing(str(k), str(t), p, tuple(json.loads(str(r))), str(why)))  # type: ignore[arg-type]
            for place, k, t, p, r, why in rows
        ]

    def sent(self, key: str) -> None:
        """The broker has it; or the app wants it no more."""
        self._write(("DELETE FROM outbox WHERE key = ?", (key,)))

    def refused(self, key: str, reason: str) -> None:
        """The broker will never take it."""
        self._write(("UPDATE outbox SET reason = ? WHERE key = ?", (reason, key)))

    # --- where the copy is from ----------------------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        """Up to where the inbox was taken."""
        return _number(self._read("SELECT value FROM meta WHERE name = 'offset'"))

    @property
    def data_epoch(self) -> str:
        """Of which copy of the broker's data that is; empty where it is not known."""
        rows = self._read("SELECT value FROM meta WHERE name = 'data_epoch'")
        return str(rows[0][0]) if rows else ""

    def begin(self, offset: int, data_epoch: str) -> None:
        """What follows is of this copy of the data."""
        self._write(_meta("offset", offset), _meta("data_epoch", data_epoch))

    def forget(self, data_epoch: str) -> None:
        """The broker's data is another copy: sequences name other messages there. The outbox stays."""
        clears = [(f"DELETE FROM {table}", ()) for table in ("messages", "positions")]
        self._write(*clears, _meta("offset", 0), _meta("data_epoch", data_epoch))


def _meta(name: str, value: object) -> tuple[str, tuple[object, ...]]:
    return "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, str(value))


def _number(rows: list[tuple[object, ...]]) -> int:
    return int(str(rows[0][0])) if rows else 0
