"""The rows of a group, gathered so that each table is written by few, large statements.

A group of one message for one inbox, or for none, is one statement, which SQLite makes a transaction of by itself: through a
view of the writer's own, whose trigger fills both tables (`ALONE`). That takes a sixth less than four statements, and gives the
lock away six times instead of twenty-one. (Groups of two through the view take more than by a statement for each table.)

Every statement gives the interpreter lock away and has to win it back from the event loop, so what counts is the number of
statements, not of rows: a group of up to 64 messages, or 128, or 256, of known timelines takes four (measured beside a busy
loop: with a statement per row 2,000 to 12,000 appends/s, so 20,000 to 60,000). One statement through a view, whose triggers
fill both tables, took twice SQLite's time for each message.

The driver hands integers, text and `bytearray` to SQLite as they are. For `bytes` and None it first looks for an adapter,
which costs more than all other values of the row together (1.3 microseconds a row, so 0.65): the rows of messages and
inboxes have neither, but for payloads that are so large that a copy costs more.

So that it could take back a statement that fails half-way, SQLite copies each page before the statement changes it. Nobody
needs that here: whoever writes rolls back all of the transaction, or to a savepoint. ``OR FAIL`` does without, which is a tenth
of what storing a message costs it, and a fifth of an inbox entry.
"""

from __future__ import annotations

import json
import sqlite3
from functools import lru_cache

from storage.sqlite.heads import Head
from storage.sqlite.runs import LONGEST, run_of

_MESSAGES = "INSERT OR FAIL INTO store VALUES"
_PLAIN = tuple(f"(?,?,?,?,?,?,{qos},0,0,x'',?)" for qos in range(3))
"""The row of a message that is not retained, does not expire and has no properties, as most have. A value that is written out
costs the driver and SQLite nothing to bind."""
_COLUMNS = ("id", "conversation", "seq", "user", "device", "time", "qos", "payload", "inbox", "place")
ALONE = f"""
    CREATE TEMP VIEW alone AS SELECT {",".join(f"NULL AS {name}" for name in _COLUMNS)};
    CREATE TEMP TRIGGER alone_insert INSTEAD OF INSERT ON alone BEGIN
        INSERT INTO store VALUES
            (new.id, new.conversation, new.seq, new.user, new.device, new.time, new.qos, 0, 0, x'', new.payload);
        INSERT INTO sync (user, seq, message) VALUES (new.inbox, new.place, new.id);
    END;
"""
"""What a connection needs for `Batch.take_alone`. It is in no file."""
_WITH_ENTRY = tuple(f"INSERT INTO alone VALUES (?,?,?,?,?,?,{qos},?,?,?)" for qos in range(3))
_WITHOUT = tuple(f"INSERT INTO store VALUES {row}" for row in _PLAIN)
_CONVERSATIONS = "INSERT INTO conversations (id, topic) VALUES"
_USERS = "INSERT INTO users (id, key) VALUES"
_ENTRIES = "INSERT OR FAIL INTO sync (user, seq, message) VALUES"
_RUNS = "INSERT OR FAIL INTO sync (user, seq, message, count, run) VALUES"
_TARGETED = "INSERT INTO sync (user, seq, message, target) VALUES"
_RETAINED = "INSERT OR REPLACE INTO retained VALUES"
_SUBSCRIPTIONS = "INSERT OR REPLACE INTO subscriptions VALUES"
_ONCE = "INSERT OR REPLACE INTO idempotency (user, key, digest, message, seq, until) VALUES"
_UNRETAINED = "DELETE FROM retained WHERE topic IN (SELECT value FROM json_each(?))"
_RECEIVED = "INSERT OR IGNORE INTO received SELECT value FROM json_each(?)"
_RELEASED = "DELETE FROM received WHERE place IN (SELECT value FROM json_each(?))"
_LAST_ID = "UPDATE meta SET value = max(value, ?) WHERE key = 'last_id'"
_EXPIRED = "DELETE FROM idempotency WHERE id IN (SELECT id FROM idempotency ORDER BY id LIMIT ?) AND until <= ?"
_PROGRESS = """
    UPDATE devices SET position = new.column2, cursor = new.column3, inflight = new.column4
    FROM (VALUES {}) AS new WHERE devices.id = new.column1
"""

Row = list[object]


@lru_cache(maxsize=2048)
def _statement(head: str, rows: int, width: int, row: str) -> str:
    row = row or f"({','.join('?' * width)})"
    values = ",".join([row] * rows)
    return head.format(values) if "{}" in head else f"{head} {values}"


def insert(connection: sqlite3.Connection, head: str, width: int, values: Row, row: str = "") -> None:
    """Run ``head`` for rows of ``width`` values that stand one after the other: in as few statements as are worth preparing.
    ``row`` is one of them in SQL, where some of it is no value."""
    rows, at = len(values) // width, 0
    while rows:
        count = 256 if rows >= 256 else 128 if rows >= 128 else min(rows, 64)
        chunk = values if count * width == len(values) else values[at : at + count * width]
        connection.execute(_statement(head, count, width, row), chunk)
        at += count * width
        rows -= count


class Batch:
    """What a group writes, in the order of the tables; of two writes to one place the later one stays."""

    WIDTH = 11
    """Values per row of ``messages``, as in `store`."""

    PLAIN = 7
    """Values per row of ``plain``: the same but for QoS, retain, expiry and properties."""

    def __init__(self) -> None:
        self.messages: Row = []
        # By QoS: those that are not retained, do not expire, and have no properties.
        self.plain: tuple[Row, Row, Row] = ([], [], [])
        self.inboxes: list[Head] = []  # those that have a run under way
        self.entries: Row = []  # user, seq, message
        self.runs: Row = []  # user, seq, message, count, run
        self._last_run: tuple[list[int], str] = ([], "")
        self.targeted: Row = []  # user, seq, message, target
        self.retained: dict[str, tuple[object, ...] | None] = {}
        self.received: dict[int, bool] = {}
        self.progress: dict[int, tuple[int, int, bytes]] = {}
        self.once: Row = []  # user, key, digest, message, seq, until
        self.now = 0
        self.unstored_id = 0

    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        entries = self.inboxes or self.entries or self.runs or self.targeted
        others = self.retained or self.received or self.progress or self.once or self.unstored_id
        plain = self.plain[0] or self.plain[1] or self.plain[2]
        return not (plain or self.messages or entries or others)

    @property
    def size(self) -> int:
        """How many rows of messages and inboxes there are."""
        plain = len(self.plain[0]) + len(self.plain[1]) + len(self.plain[2])
        entries = len(self.entries) // 3 + len(self.runs) // 5 + len(self.targeted) // 4
        return len(self.messages) // self.WIDTH + plain // self.PLAIN + entries

    def end_run(self, inbox: Head) -> None:
        """Have the entries of an inbox up to its head written; what comes next is a run of its own."""
        ids, inbox.run = inbox.run, []
        seq = inbox.seq - len(ids)
        while ids:
            run, ids = ids[:LONGEST], ids[LONGEST:]
            seq += len(run)
            if len(run) == 1:
                self.entries += (inbox.id, seq, run[0])
            else:
                if run != self._last_run[0]:  # else it is another subscriber of the same conversations
                    self._last_run = (run, run_of(run))
                if self._last_run[1]:
                    self.runs += (inbox.id, seq, run[-1], len(run), self._last_run[1])
                else:
                    for place, id in enumerate(run, seq - len(run) + 1):
                        self.entries += (inbox.id, place, id)

    def take_alone(self) -> tuple[str, Row] | None:
        """The statement and its values, where all there is is one message with its entry in one inbox, or in none."""
        if self.messages or self.entries or self.runs or self.targeted or len(self.inboxes) > 1:
            return None
        if self.retained or self.received or self.progress or self.once or self.unstored_id:
            return None
        if len(self.plain[0]) + len(self.plain[1]) + len(self.plain[2]) != self.PLAIN:
            return None
        qos = 0 if self.plain[0] else 1 if self.plain[1] else 2
        row = self.plain[qos]
        if not self.inboxes:
            return _WITHOUT[qos], row
        inbox = self.inboxes[0]
        inbox.run = []
        return _WITH_ENTRY[qos], [*row, inbox.id, inbox.seq]

    def clear(self) -> None:
        """All is written."""
        for rows in (*self.plain, self.messages, self.entries, self.runs, self.targeted, self.once):
            rows.clear()
        self.inboxes.clear()
        self.retained.clear()
        self.received.clear()
        self.progress.clear()
        self.now = self.unstored_id = 0

    def write(self, connection: sqlite3.Connection, conversations: Row, users: Row) -> None:
        """Write all, in the caller's transaction."""
        insert(connection, _CONVERSATIONS, 2, conversations)
        insert(connection, _USERS, 2, users)
        for qos in range(3):
            insert(connection, _MESSAGES, self.PLAIN, self.plain[qos], _PLAIN[qos])
        insert(connection, _MESSAGES, self.WIDTH, self.messages)
        for inbox in self.inboxes:
            self.end_run(inbox)
        insert(connection, _ENTRIES, 3, self.entries)
        insert(connection, _RUNS, 5, self.runs)
        insert(connection, _TARGETED, 4, self.targeted)
        if self.retained:
            self._write_retained(connection)
        if self.received:
            self._write_received(connection)
        if self.once:
            connection.execute(_EXPIRED, (len(self.once) // 3 + 8, self.now))
            insert(connection, _ONCE, 6, self.once)
        insert(connection, _PROGRESS, 4, [value for id, values in self.progress.items() for value in (id, *values)])
        if self.unstored_id:
            connection.execute(_LAST_ID, (self.unstored_id,))

    def _write_retained(self, connection: sqlite3.Connection) -> None:
        if gone := [topic for topic, row in self.retained.items() if row is None]:
            connection.execute(_UNRETAINED, (json.dumps(gone),))
        insert(connection, _RETAINED, 11, [value for row in self.retained.values() if row for value in row])

    def _write_received(self, connection: sqlite3.Connection) -> None:
        if gone := [place for place, kept in self.received.items() if not kept]:
            connection.execute(_RELEASED, (json.dumps(gone),))
        if new := [place for place, kept in self.received.items() if kept]:
            connection.execute(_RECEIVED, (json.dumps(new),))


def write_subscriptions(connection: sqlite3.Connection, rows: Row) -> None:
    """Add or replace rows of (device, filter, options, identifier, since)."""
    insert(connection, _SUBSCRIPTIONS, 5, rows)
