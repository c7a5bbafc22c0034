"""Queries about devices that no broker holds in memory. A long page is one row, for the interpreter lock."""

from __future__ import annotations

import json
import sqlite3

from storage.interface import Due, Subscribed
from storage.records import NEVER, Device, DeviceKey
from storage.sqlite import queries

_SUBSCRIBED = """
    SELECT max(d.id), json_group_array(json_array(d.user, d.client, s.filter)) FILTER (WHERE s.filter IS NOT NULL)
    FROM (SELECT id, user, client FROM devices WHERE id > ? ORDER BY id LIMIT ?) AS d
    LEFT JOIN subscriptions AS s ON s.device = d.id
"""
_UNDATED = f"""
    d.id > ? AND (d.will IS NOT NULL
        OR d.expiry != {NEVER} AND (d.expires_at = 0 OR d.expires_at > ? + d.expiry * 1000))
    ORDER BY d.id LIMIT ?
"""
_DUE = """
    SELECT user, client, at FROM (
        SELECT * FROM (SELECT user, client, expires_at AS at FROM devices WHERE expires_at > 0 AND expires_at <= :now
            ORDER BY expires_at LIMIT :limit)
        UNION ALL
        SELECT * FROM (SELECT user, client, will_at AS at FROM devices WHERE will_at > 0 AND will_at <= :now
            ORDER BY will_at LIMIT :limit)
    ) ORDER BY at
"""
_NEXT = """
    SELECT min(at) FROM (
        SELECT min(expires_at) AS at FROM devices WHERE expires_at > 0 AND expires_at > :now
        UNION ALL
        SELECT min(will_at) FROM devices WHERE will_at > 0 AND will_at > :now
    )
"""
_LOWEST = """
    SELECT json_group_array(json_array(user, lowest)) FROM (
        SELECT user, min(position) AS lowest FROM devices WHERE user > ? GROUP BY user ORDER BY user LIMIT ?)
"""


def count(connection: sqlite3.Connection) -> int:
    """How many devices there are."""
    return int(connection.execute("SELECT count(*) FROM devices").fetchall()[0][0])


def subscribed(connection: sqlite3.Connection, after: int, limit: int) -> tuple[int, list[Subscribed]]:
    """The subscriptions of a page of devices, and the number to go on after; 0 at the end."""
    ((last, found),) = connection.execute(_SUBSCRIBED, (after, limit)).fetchall()
    return last or 0, [Subscribed(*row) for row in json.loads(found)]


def undated(connection: sqlite3.Connection, after: int, now: int, limit: int) -> list[tuple[int, Device]]:
    """A page of devices whose deadlines a start must look at, each with the number to go on after."""
    return queries.devices_where(connection, _UNDATED, (after, now, limit))


def due(connection: sqlite3.Connection, now: int, limit: int) -> Due:
    """Devices whose deadline has come, and the next deadline."""
    found = connection.execute(_DUE, {"now": now, "limit": limit}).fetchall()
    keys = list(dict.fromkeys(DeviceKey(user, client) for user, client, _ in found))
    ((following,),) = connection.execute(_NEXT, {"now": now}).fetchall()
    return Due(keys[:limit], following or 0)


def devices_of(connection: sqlite3.Connection, user: str, after: str, limit: int) -> list[Device]:
    """A user's devices behind a client id; all where ``limit`` is 0."""
    condition = "d.user = ? AND d.client >= ? ORDER BY d.client LIMIT ?"
    first = f"{after}\0" if after else ""  # a shared subscription's group has no client id
    return [device for _, device in queries.devices_where(connection, condition, (user, first, limit or -1))]


def devices_from(connection: sqlite3.Connection, key: DeviceKey, limit: int) -> list[Device]:
    """A page of devices, by key."""
    condition = "(d.user, d.client) >= (?, ?) ORDER BY d.user, d.client LIMIT ?"
    return [device for _, device in queries.devices_where(connection, condition, (*key, limit))]


def devices_named(connection: sqlite3.Connection, client_id: str, user: str, limit: int) -> list[Device]:
    """A page of the devices with a client id, by user."""
    condition = "d.client = ? AND d.user >= ? ORDER BY d.user LIMIT ?"
    return [device for _, device in queries.devices_where(connection, condition, (client_id, user, limit))]


def lowest_offset(connection: sqlite3.Connection, user: str) -> int | None:
    """The lowest offset in an inbox."""
    ((lowest,),) = connection.execute("SELECT min(position) FROM devices WHERE user = ?", (user,)).fetchall()
    return lowest  # type: ignore[no-any-return]


def lowest_offsets(connection: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, int]]:
    """A page of them, by user key."""
    ((found,),) = connection.execute(_LOWEST, (after, limit)).fetchall()
    return [(user, lowest) for user, lowest in json.loads(found)]
