"""Where the timelines end: read from the database once, then counted in memory by the one thread that writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from storage.sqlite.recent import Recent

KEPT = 100_000
"""How many conversations, and how many inboxes, are remembered at least."""


class Head:
    """The number of a timeline, its last sequence, and the time of its last message (of a conversation) or the message ids of
    its last entries that are not written yet (of an inbox)."""

    __slots__ = ("id", "run", "seq", "time")

    def __init__(self, id: int, seq: int, time: int = 0) -> None:
        self.id = id
        self.seq = seq
        self.time = time
        self.run: list[int] = []


_CONVERSATIONS = """
    SELECT json_group_array(json_array(topic, id, ifnull(seq, floor), max(floor_time, ifnull(time, 0)))) FROM (
        SELECT c.*,
            (SELECT seq FROM store WHERE conversation = c.id ORDER BY seq DESC LIMIT 1) AS seq,
            (SELECT time FROM store WHERE conversation = c.id ORDER BY seq DESC LIMIT 1) AS time
        FROM json_each(?) AS asked CROSS JOIN conversations AS c ON c.topic = asked.value)
"""
_USERS = """
    SELECT json_group_array(json_array(key, id, ifnull(seq, floor))) FROM (
        SELECT u.*, (SELECT seq FROM sync WHERE user = u.id ORDER BY seq DESC LIMIT 1) AS seq
        FROM json_each(?) AS asked CROSS JOIN users AS u ON u.key = asked.value)
"""


class Heads:
    """Heads of conversations (by topic) or of inboxes (by user key).

    Timelines that are not in the database yet are counted from 0; their rows are handed out by `take_new`.
    After a transaction that was rolled back, `clear` is due.
    """

    def __init__(self, query: str, table: str, kept: int = KEPT) -> None:
        self._query = query
        self._table = table
        self._heads: Recent[str, Head] = Recent(kept)
        self._group: dict[str, Head] = {}  # heads in use by the group: the cache may drop any of them meanwhile
        self._missing: dict[str, None] = {}
        self._next_id = 0
        self._new: list[object] = []

    def get(self, connection: sqlite3.Connection, name: str) -> Head:
        """The head of a timeline, made where there is none yet; valid until `finish` or `clear`."""
        head = self._group.get(name)
        if head is None:
            self.want(name)
            head = self.wanted(connection)[name]
        return head

    def want(self, name: str) -> None:
        """Have a head made ready by `wanted`."""
        if name not in self._group:
            head = self._heads.get(name)
            if head is None:
                self._missing[name] = None
            else:
                self._group[name] = head

    def wanted(self, connection: sqlite3.Connection) -> dict[str, Head]:
        """The heads of all names that `want` was given, and others; one query reads those that are not remembered."""
        if self._missing:
            missing, self._missing = self._missing, {}
            self._read(connection, missing)
        return self._group

    def peek(self, connection: sqlite3.Connection, name: str) -> int:
        """The last sequence of a timeline; nothing is made for one that does not exist."""
        head = self._group.get(name) or self._heads.get(name)
        if head is not None:
            return head.seq
        ((found,),) = connection.execute(self._query, (json.dumps([name]),)).fetchall()
        rows = json.loads(found)
        return int(rows[0][2]) if rows else 0

    def take_new(self) -> list[object]:
        """(id, name) of the timelines made since the last call, in one flat list."""
        new, self._new = self._new, []
        return new

    def finish(self) -> None:
        """The group is committed."""
        self._group = {}

    def clear(self) -> None:
        """Forget everything that may not have been committed."""
        self._group = {}
        self._missing = {}
        self._heads.clear()
        self._new = []
        self._next_id = 0

    def _read(self, connection: sqlite3.Connection, names: Collection[str]) -> None:
        ((found,),) = connection.execute(self._query, (json.dumps(list(names)),)).fetchall()
        group, heads = self._group, self._heads
        for name, *numbers in json.loads(found):
            if name not in group:
                group[name] = head = Head(*numbers)
                heads.put(name, head)
        for name in names:
            if name not in group:
                group[name] = head = Head(self._take_id(connection), 0)
                heads.put(name, head)
                self._new += (head.id, name)

    def _take_id(self, connection: sqlite3.Connection) -> int:
        if not self._next_id:
            ((highest,),) = connection.execute(f"SELECT ifnull(max(id), 0) FROM {self._table}").fetchall()
            self._next_id = int(highest) + 1
        self._next_id += 1
        return self._next_id - 1


def conversation_heads() -> Heads:
    """Heads of conversations, by topic."""
    return Heads(_CONVERSATIONS, "conversations")


def inbox_heads() -> Heads:
    """Heads of inboxes, by user key."""
    return Heads(_USERS, "users")
