"""Who has one message: found by halving its recipients' inboxes, along which message ids rise.

A whole page of inboxes is one query: a query for each step of each would hold the interpreter lock at all of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from storage.interface import NEAR
from storage.sqlite.runs import LONGEST, READABLE

_PARTICIPANTS = "SELECT user FROM participants WHERE topic = ? AND joined = 1 AND user > ? ORDER BY user LIMIT ?"
_POSITIONS = """
    SELECT json_group_array(ifnull(p.position, 0)) FROM json_each(?) AS asked
    LEFT JOIN participants AS p ON p.user = asked.value AND p.topic = ?
"""
# Entries that are for one device have ids of other times, so a probe is the next run that is for all, by its last entry.
_ENTRIES = f"""
    WITH RECURSIVE halves (place, user, low, high) AS (
        SELECT asked.key, u.id, u.floor + 1,
            ifnull((SELECT seq FROM sync WHERE user = u.id ORDER BY seq DESC LIMIT 1), u.floor) + 1
        FROM json_each(:users) AS asked CROSS JOIN users AS u ON u.key = asked.value
        UNION ALL
        SELECT h.place, h.user,
            iif(probe.message < :id, probe.seq + 1, h.low), iif(probe.message < :id, h.high, (h.low + h.high) / 2)
        FROM halves AS h LEFT JOIN sync AS probe ON probe.user = h.user AND probe.seq = (
            SELECT seq FROM sync
            WHERE user = h.user AND seq >= (h.low + h.high) / 2 AND seq < h.high AND target IS NULL ORDER BY seq LIMIT 1)
        WHERE h.low < h.high
    )
    SELECT json_group_array(json_array(place, seq)) FROM (
        SELECT h.place, coalesce(
            (SELECT seq FROM {READABLE} WHERE user = h.user AND message = :id AND last = (
                SELECT seq FROM sync WHERE user = h.user AND seq >= h.low AND target IS NULL ORDER BY seq LIMIT 1)),
            (SELECT seq FROM {READABLE}
                WHERE user = h.user AND last BETWEEN h.low - {NEAR} AND h.low + {NEAR + LONGEST}
                AND message = :id AND target IS NULL ORDER BY last LIMIT 1)) AS seq
        FROM halves AS h WHERE h.low = h.high
    ) WHERE seq IS NOT NULL
"""


def participants(connection: sqlite3.Connection, topic: str, after: str, limit: int) -> list[str]:
    """A page of the users who take part in a conversation."""
    return [user for (user,) in connection.execute(_PARTICIPANTS, (topic, after, limit)).fetchall()]


def entries_of(connection: sqlite3.Connection, message_id: int, users: Sequence[str]) -> list[int]:
    """Where each inbox has a message; 0 for nowhere."""
    seqs = [0] * len(users)
    ((found,),) = connection.execute(_ENTRIES, {"users": json.dumps(list(users)), "id": message_id}).fetchall()
    for place, seq in json.loads(found):
        seqs[place] = seq
    return seqs


def read_positions(connection: sqlite3.Connection, topic: str, users: Sequence[str]) -> list[int]:
    """How far each user has read."""
    ((found,),) = connection.execute(_POSITIONS, (json.dumps(list(users)), topic)).fetchall()
    return [int(position) for position in json.loads(found)]
