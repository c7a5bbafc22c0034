"""The tables, by version, and how an older database becomes a newer one.

- ``store``: the messages. The primary key is the message id, which rises, so that messages are appended at the end of the
  tree. ``store_timeline`` leads from a conversation's sequence to its message.
- ``sync``: the inboxes; an entry points to a message by its id. Those one after the other share a row (`storage.sqlite.runs`).
- ``conversations`` and ``users`` give timelines short numbers. ``floor`` is the last sequence that was removed; a head is the
  highest sequence that is kept, or the floor where nothing is kept. So a commit need not write heads.
- ``retained`` has messages of its own: retention may remove the conversation's.
- ``meta``: ``epoch`` and ``restored`` are `storage.records.DataEpoch`; ``last_id`` is the highest id that may be in no other
  table; ``clean`` is 0 while a broker is at work; ``revision`` is the last that
  a change of a row was given. A device's ``epoch`` is below 0 where it was restored (`storage.restored`).
- ``received``: packet ids of inbound QoS 2 messages, as device * 65536 + packet id.
"""

from __future__ import annotations

import sqlite3

from storage.errors import StorageUnusable
from storage.sqlite import runs

APPLICATION_ID = 0x54494445  # "TIDE"
OLDEST_SQLITE = (3, 38, 0)

_MESSAGE = """
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    time INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
"""

_STORE = """
    INSERT INTO store VALUES (new.id, new.conversation, new.seq, new.user, new.device, new.time, new.qos, new.retain,
        new.expires, new.properties, new.payload);
"""

_VERSION_1 = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('clean', 1), ('last_id', 0);

CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    floor INTEGER NOT NULL DEFAULT 0,
    floor_time INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE store (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, seq INTEGER NOT NULL, {_MESSAGE});
CREATE UNIQUE INDEX store_timeline ON store (conversation, seq);
CREATE INDEX store_expiring ON store (conversation, seq, expires) WHERE expires > 0;

CREATE TABLE users (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, floor INTEGER NOT NULL DEFAULT 0);
CREATE TABLE sync (
    user INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    message INTEGER NOT NULL,
    target TEXT,
    PRIMARY KEY (user, seq)
) WITHOUT ROWID;

CREATE TABLE retained (id INTEGER NOT NULL UNIQUE, topic TEXT NOT NULL PRIMARY KEY, seq INTEGER NOT NULL, {_MESSAGE});

CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    client TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expiry INTEGER NOT NULL,
    expires_at INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    position INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    inflight BLOB NOT NULL DEFAULT x'',
    will BLOB,
    will_at INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user, client)
);
CREATE TABLE subscriptions (
    device INTEGER NOT NULL,
    filter TEXT NOT NULL,
    options INTEGER NOT NULL,
    identifier INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (device, filter)
) WITHOUT ROWID;
CREATE TABLE received (place INTEGER PRIMARY KEY);

CREATE TABLE idempotency (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    message INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    until INTEGER NOT NULL,
    UNIQUE (user, key)
);

CREATE TABLE participants (
    user TEXT NOT NULL,
    topic TEXT NOT NULL,
    joined INTEGER NOT NULL,
    position INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user, topic)
) WITHOUT ROWID;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    label TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
);

CREATE VIEW incoming AS SELECT store.*, 0 AS inbox, 0 AS place, '' AS fanout FROM store;
CREATE TRIGGER incoming_for_one INSTEAD OF INSERT ON incoming WHEN new.inbox IS NOT NULL BEGIN
    {_STORE}
    INSERT INTO sync VALUES (new.inbox, new.place, new.id, NULL);
END;
CREATE TRIGGER incoming_for_many INSTEAD OF INSERT ON incoming WHEN new.inbox IS NULL BEGIN
    {_STORE}
    INSERT INTO sync SELECT CAST(entry.key AS INTEGER), entry.value, new.id, NULL FROM json_each(new.fanout) AS entry;
END;
"""

_VERSION_2 = """
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    schedule TEXT NOT NULL,
    next_run INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""

_VERSION_3 = """
DROP VIEW incoming;
"""

_VERSION_4 = """
CREATE INDEX devices_expiring ON devices (expires_at) WHERE expires_at > 0;
CREATE INDEX devices_wills ON devices (will_at) WHERE will_at > 0;
"""

_VERSION_5 = """
CREATE INDEX retained_expiring ON retained (expires, id) WHERE expires > 0;
"""

_VERSION_6 = """
CREATE TABLE settings (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
"""

_VERSION_7 = """
INSERT INTO meta VALUES ('epoch', random() & 9223372036854775807), ('restored', 0);
"""

_VERSION_8 = """
CREATE TABLE rows (
    kind TEXT NOT NULL,
    part TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, part, key)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', 0);
"""

_VERSION_9 = """
CREATE INDEX participants_topic ON participants (topic, user) WHERE joined = 1;
"""

_VERSION_10 = """
CREATE INDEX devices_client ON devices (client, user);
"""

MIGRATIONS = (
    *(_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5),
    *(_VERSION_6, _VERSION_7, _VERSION_8, _VERSION_9, _VERSION_10),
    runs.MIGRATION,
)
"""Item n makes version n + 1 of version n. Append only."""
VERSION = len(MIGRATIONS)
"""The newest."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema to the newest version, one durable step per version."""
    version = check_version(connection, path)
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        settings = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number};"
        connection.executescript(f"BEGIN IMMEDIATE; {script} {settings} COMMIT;")


def check_version(connection: sqlite3.Connection, path: str) -> int:
    """The schema version; `StorageUnusable` where another program wrote the file, or a newer version of this one."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StorageUnusable(f"SQLite {sqlite3.sqlite_version} is too old: Tideline needs {oldest} or later")
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if tables and application != APPLICATION_ID:
        raise StorageUnusable(f"{path} belongs to another program: it is a SQLite database, but not Tideline's")
    if version > VERSION:
        raise StorageUnusable(f"{path} has schema version {version}, this Tideline knows {VERSION}: use a newer Tideline")
    return int(version)
