"""Operations on sessions, inside the transaction of their group."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from storage import rules
from storage.records import CloseSession, DeviceKey, OpenSession, Subscribe, Unsubscribe
from storage.sqlite.batch import write_subscriptions
from storage.sqlite.recent import Recent
from storage.sqlite.runs import LONGEST
from storage.sqlite.unsound import is_no_json

KEPT = 100_000
PROBED = 1000
"""How many entries a search by time looks past to find one whose message it knows."""

_DEVICE = "SELECT id, epoch, created_at FROM devices WHERE user = ? AND client = ?"
_CREATE = """
    INSERT INTO devices (user, client, epoch, expiry, created_at, position, cursor, will) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_CONTINUE = "UPDATE devices SET epoch = ?, expiry = ?, will = ?, expires_at = 0, will_at = 0 WHERE id = ?"
_CLOSE = "UPDATE devices SET expiry = ?, expires_at = ?, will = ?, will_at = ? WHERE id = ?"
_SINCE = """
    SELECT json_group_object(filter, since) FROM subscriptions
    WHERE device = ? AND filter IN (SELECT value FROM json_each(?))
"""
_UNSUBSCRIBE = "DELETE FROM subscriptions WHERE device = ? AND filter IN (SELECT value FROM json_each(?))"
_PROBE = f"""
    SELECT seq, time FROM (
        SELECT e.seq, store.time FROM entries AS e LEFT JOIN store ON store.id = e.message AND e.target IS NULL
        WHERE e.user = (SELECT id FROM users WHERE key = ?1)
            AND e.last BETWEEN ?2 AND ?3 + {LONGEST} AND e.seq BETWEEN ?2 AND ?3
        ORDER BY e.last LIMIT ?4
    ) WHERE time IS NOT NULL LIMIT 1
"""


class Row(NamedTuple):
    """Where a device is stored, its epoch, and when it was created; id 0 for one that is not kept."""

    id: int
    epoch: int
    created_at: int


NOBODY = Row(0, 0, 0)


class Sessions:
    """The tables ``devices``, ``subscriptions`` and ``received``. After a roll-back, `clear` is due."""

    def __init__(self) -> None:
        self._rows: Recent[DeviceKey, Row] = Recent(KEPT)

    def clear(self) -> None:
        """Forget what may not have been committed."""
        self._rows.clear()

    def find(self, connection: sqlite3.Connection, key: DeviceKey) -> Row:
        """The device's row, or `NOBODY`."""
        row = self._rows.get(key)
        if row is None:
            found = connection.execute(_DEVICE, key).fetchall()
            row = Row(*found[0]) if found else NOBODY
            self._rows.put(key, row)
        return row

    def current(self, connection: sqlite3.Connection, key: DeviceKey, epoch: int) -> int:
        """The device's number; 0 where it is not kept, or its epoch is newer than ``epoch``."""
        row = self.find(connection, key)
        return 0 if rules.is_older(epoch, row.epoch) else row.id

    def open(self, connection: sqlite3.Connection, op: OpenSession, head: int) -> None:
        """Create or go on with a device; ``head`` is its inbox's."""
        start = rules.Start.parse(op.start)
        op.head = head
        row = self.find(connection, op.device)
        if row.id and rules.is_older(op.epoch, row.epoch):
            op.offset = self._position(connection, row.id)
            return
        if row.id and op.clean:
            self._delete(connection, op.device, row.id)
            row = NOBODY
        if row.id:
            if row.epoch < 0:  # of restored data: see `storage.restored`
                connection.execute("UPDATE devices SET cursor = position, inflight = x'' WHERE id = ?", (row.id,))
                self._forget_received(connection, row.id)
            op.offset = self._position(connection, row.id)
            connection.execute(_CONTINUE, (op.epoch, op.expiry, op.will, row.id))
            op.created = rules.made_by(row.epoch, row.created_at, op)
            row = row._replace(epoch=op.epoch)
        else:
            op.offset = self._start(connection, op.device.user, start, head)
            values = (*op.device, op.epoch, op.expiry, op.at, op.offset, op.offset, op.will)
            row = Row(connection.execute(_CREATE, values).lastrowid or 0, op.epoch, op.at)
            op.created = True
        self._rows.put(op.device, row)

    def close(self, connection: sqlite3.Connection, op: CloseSession) -> None:
        """End a connection's epoch."""
        number = self.current(connection, op.device, op.epoch)
        if not number:
            return
        if op.delete:
            self._delete(connection, op.device, number)
        else:
            connection.execute(_CLOSE, (op.expiry, op.expires_at, op.will, op.will_at, number))

    def subscribe(self, connection: sqlite3.Connection, op: Subscribe, head: int) -> int:
        """Add or replace subscriptions; the device's number, 0 where nothing was stored."""
        number = self.current(connection, op.device, op.epoch)
        known: dict[str, int] = {}
        if number:
            filters = json.dumps([subscription.filter for subscription in op.subscriptions])
            ((found,),) = connection.execute(_SINCE, (number, filters)).fetchall()
            known = json.loads(found)
        rows: list[object] = []
        for new in op.subscriptions:
            new.since = rules.since(new, known.get(new.filter), head)
            if number:
                known[new.filter] = new.since
            rows += (number, new.filter, new.options, new.identifier, new.since)
        if number:
            write_subscriptions(connection, rows)
        return number

    def unsubscribe(self, connection: sqlite3.Connection, op: Unsubscribe) -> None:
        """Remove subscriptions."""
        if number := self.current(connection, op.device, op.epoch):
            connection.execute(_UNSUBSCRIBE, (number, json.dumps(list(op.filters))))

    def _delete(self, connection: sqlite3.Connection, key: DeviceKey, number: int) -> None:
        connection.execute("DELETE FROM devices WHERE id = ?", (number,))
        connection.execute("DELETE FROM subscriptions WHERE device = ?", (number,))
        self._forget_received(connection, number)
        self._rows.put(key, NOBODY)

    @staticmethod
    def _forget_received(connection: sqlite3.Connection, number: int) -> None:
        connection.execute("DELETE FROM received WHERE place BETWEEN ? AND ?", (number << 16, number << 16 | 0xFFFF))

    def _position(self, connection: sqlite3.Connection, number: int) -> int:
        ((position,),) = connection.execute("SELECT position FROM devices WHERE id = ?", (number,)).fetchall()
        return int(position)

    def _start(self, connection: sqlite3.Connection, user: str, start: rules.Start, head: int) -> int:
        def floor() -> int:
            found = connection.execute("SELECT floor FROM users WHERE key = ?", (user,)).fetchall()
            return int(found[0][0]) if found else 0

        return start.offset(head, floor, lambda time: _before(connection, user, time, floor(), head))


def _before(connection: sqlite3.Connection, user: str, time: int, floor: int, head: int) -> int:
    """The sequence before the first entry of ``time`` or later; an entry without a message counts as older. Less, where a row
    that does not say what its entries are is in the way: it must not hold up the group, nor have the device skip anything."""
    low, high = floor + 1, head + 1
    while low < high:
        middle = (low + high) // 2
        try:
            found = connection.execute(_PROBE, (user, middle, high - 1, PROBED)).fetchall()
        except sqlite3.OperationalError as error:
            if not is_no_json(error):
                raise
            break
        if found and found[0][1] >= time:
            high = middle
        else:
            low = (found[0][0] if found else min(middle + PROBED - 1, high - 1)) + 1
    return low - 1
