"""Reads other than pages of messages: heads, places by time, devices, the lists of timelines, and checks."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.interface import Newest, Volume
from storage.packing import unpack_inflight
from storage.records import DataEpoch, Device, DeviceKey, Subscription
from storage.restored import unmarked

_LAST_ENTRY = "ifnull((SELECT seq FROM sync WHERE user = u.id ORDER BY seq DESC LIMIT 1), u.floor)"
_INBOX_BOUNDS = f"SELECT u.floor + 1, {_LAST_ENTRY} FROM users AS u WHERE u.key = ?"
CONVERSATION_HEAD = "ifnull((SELECT seq FROM store WHERE conversation = c.id ORDER BY seq DESC LIMIT 1), c.floor)"
_BOUNDS = f"SELECT c.floor + 1, {CONVERSATION_HEAD} FROM conversations AS c WHERE c.topic = ?"
_NEWEST = """
    SELECT json_group_array(json_array(asked.key, m.seq, m.time)) FROM json_each(?) AS asked
    CROSS JOIN conversations AS c ON c.topic = asked.value
    CROSS JOIN store AS m ON m.conversation = c.id
        AND m.seq = (SELECT seq FROM store WHERE conversation = c.id ORDER BY seq DESC LIMIT 1)
"""
"""One row for all: each row that SQLite gives costs the interpreter lock once."""
_SEQUENCE_AT = f"""
    WITH RECURSIVE halves (id, low, high) AS (
        SELECT c.id, c.floor + 1, {CONVERSATION_HEAD} + 1 FROM conversations AS c WHERE c.topic = :topic
        UNION ALL
        SELECT h.id, iif(m.time < :time, m.seq + 1, h.low), iif(m.time < :time, h.high, m.seq)
        FROM halves AS h CROSS JOIN store AS m ON m.conversation = h.id AND m.seq = (h.low + h.high) / 2 WHERE h.low < h.high
    )
    SELECT low FROM halves WHERE low = high
"""
LAST_ID = """
    SELECT max((SELECT value FROM meta WHERE key = 'last_id'), (SELECT ifnull(max(id), 0) FROM store),
        (SELECT ifnull(max(id), 0) FROM retained))
"""
_DEVICE_COLUMNS = """
    SELECT d.id, d.user, d.client, d.epoch, d.expiry, d.expires_at, d.created_at, d.position, d.cursor, d.inflight,
        d.will, d.will_at,
        (SELECT json_group_array(json_array(filter, options, identifier, since)) FROM subscriptions WHERE device = d.id),
        (SELECT json_group_array(place & 65535) FROM received WHERE place BETWEEN d.id << 16 AND d.id << 16 | 65535)
    FROM devices AS d
"""
_DEVICES_OF_KEYS = f"""
    {_DEVICE_COLUMNS} WHERE d.id IN (
        SELECT kept.id FROM json_each(?) AS asked CROSS JOIN devices AS kept
        ON kept.user = json_extract(asked.value, '$[0]') AND kept.client = json_extract(asked.value, '$[1]'))
"""
_CONVERSATIONS = f"""
    SELECT c.topic, c.floor + 1, {CONVERSATION_HEAD} FROM conversations AS c
    WHERE c.topic > ? AND c.topic >= ? ORDER BY c.topic LIMIT ?
"""
_INBOXES = f"SELECT u.key, u.floor + 1, {_LAST_ENTRY} FROM users AS u WHERE u.key > ? ORDER BY u.key LIMIT ?"
_GAPS = f"""
    SELECT 'conversation ' || c.topic || ' has a gap' FROM conversations AS c
    WHERE (SELECT count(*) FROM store WHERE conversation = c.id AND seq > c.floor) != {CONVERSATION_HEAD} - c.floor
    UNION ALL
    SELECT 'inbox ' || u.key || ' has a gap' FROM users AS u
    WHERE (SELECT ifnull(sum(count), 0) FROM sync WHERE user = u.id AND seq > u.floor)
        != ifnull((SELECT max(seq) FROM sync WHERE user = u.id), u.floor) - u.floor
    LIMIT 100
"""


def inbox_head(connection: sqlite3.Connection, user: str) -> int:
    """The last sequence of an inbox."""
    return inbox_bounds(connection, user)[1]


def inbox_bounds(connection: sqlite3.Connection, user: str) -> tuple[int, int]:
    """First kept and last sequence of an inbox."""
    found = connection.execute(_INBOX_BOUNDS, (user,)).fetchall()
    return found[0] if found else (1, 0)


def conversation_bounds(connection: sqlite3.Connection, topic: str) -> tuple[int, int]:
    """First kept and last sequence of a conversation."""
    found = connection.execute(_BOUNDS, (topic,)).fetchall()
    return found[0] if found else (1, 0)


def newest(connection: sqlite3.Connection, topics: Sequence[str]) -> list[Newest]:
    """Sequence and time of the last kept message of each conversation."""
    ((found,),) = connection.execute(_NEWEST, (json.dumps(topics),)).fetchall()
    ends = {place: Newest(seq, time) for place, seq, time in json.loads(found)}
    return [ends.get(place, Newest(0, 0)) for place in range(len(topics))]


def sequence_at(connection: sqlite3.Connection, topic: str, time: int) -> int:
    """The lowest kept sequence of that time or later; by halving, since times do not fall within a conversation."""
    found = connection.execute(_SEQUENCE_AT, {"topic": topic, "time": time}).fetchall()
    return int(found[0][0]) if found else 1


def last_id(connection: sqlite3.Connection) -> int:
    """The highest message id that ever was stored or retained."""
    return int(connection.execute(LAST_ID).fetchall()[0][0])


def volume(connection: sqlite3.Connection, path: Path) -> Volume:
    """What is stored takes; pages that nothing is in serve what comes next."""
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    ((empty,),) = connection.execute("PRAGMA freelist_count").fetchall()
    ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    disk = os.statvfs(path.parent)
    return Volume((pages - empty) * size, disk.f_bavail * disk.f_frsize + empty * size, disk.f_blocks * disk.f_frsize)


def data_epoch(connection: sqlite3.Connection) -> DataEpoch:
    """Which copy of the data it is; no id where the file is older than epochs are, and is only read."""
    found = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('epoch', 'restored')").fetchall())
    return DataEpoch(f"{found['epoch']:016x}" if found else "", found.get("restored", 0))


def devices_of_keys(connection: sqlite3.Connection, keys: Sequence[DeviceKey]) -> dict[DeviceKey, Device]:
    """Those of the devices that are kept."""
    if len(keys) == 1:
        found = devices_where(connection, "d.user = ? AND d.client = ?", keys[0])
    else:
        rows = connection.execute(_DEVICES_OF_KEYS, (json.dumps(keys),)).fetchall()
        found = [_device(row) for row in rows]
    return {device.key: device for _, device in found}


def devices(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, Device]]:
    """A page of devices, each with the number to go on after."""
    return devices_where(connection, "d.id > ? ORDER BY d.id LIMIT ?", (after, limit))


def devices_where(connection: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> list[tuple[int, Device]]:
    """Devices (``d``) that meet a condition, each with its number."""
    return [_device(row) for row in connection.execute(f"{_DEVICE_COLUMNS} WHERE {condition}", values).fetchall()]


def _device(row: tuple[Any, ...]) -> tuple[int, Device]:
    (
        number,
        user,
        client,
        epoch,
        expiry,
        expires_at,
        created_at,
        position,
        cursor,
        inflight,
        will,
        will_at,
        subscriptions,
        received,
    ) = row
    kept = [Subscription(*fields) for fields in json.loads(subscriptions)]
    restored = epoch < 0
    device = Device(
        key=DeviceKey(user, client),
        epoch=unmarked(epoch),
        expiry=expiry,
        expires_at=expires_at,
        created_at=created_at,
        offset=position,
        cursor=position if restored else cursor,
        inflight=[] if restored else unpack_inflight(inflight),
        subscriptions={subscription.filter: subscription for subscription in kept},
        received=set() if restored else set(json.loads(received)),
        will=will,
        will_at=will_at,
        restored=restored,
    )
    return number, device


def conversations(connection: sqlite3.Connection, after: str, prefix: str, limit: int) -> list[tuple[str, int, int]]:
    """A page of (topic, first kept, last) by topic, those with ``prefix`` first."""
    return connection.execute(_CONVERSATIONS, (after, prefix, limit)).fetchall()


def inboxes(connection: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, int, int]]:
    """A page of (user key, first kept, last) by user key."""
    return connection.execute(_INBOXES, (after, limit)).fetchall()


def problems(connection: sqlite3.Connection, full: bool) -> list[str]:
    """What is wrong with the file: its structure, and if ``full``, its indexes and the sequences of all timelines too."""
    check = "integrity_check" if full else "quick_check"
    found = [row[0] for row in connection.execute(f"PRAGMA {check}(100)").fetchall() if row[0] != "ok"]
    if full and not found:
        found += [row[0] for row in connection.execute(_GAPS).fetchall()]
    return found


def retained_count(connection: sqlite3.Connection) -> int:
    """How many topics have a retained message."""
    ((count,),) = connection.execute("SELECT count(*) FROM retained").fetchall()
    return int(count)


def retained_expired(connection: sqlite3.Connection, now: int, limit: int) -> list[tuple[str, int]]:
    """(topic, id) of retained messages that have expired."""
    query = "SELECT topic, id FROM retained WHERE expires > 0 AND expires <= ? ORDER BY expires, id LIMIT ?"
    return connection.execute(query, (now, limit)).fetchall()
