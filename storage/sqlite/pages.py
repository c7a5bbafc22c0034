"""Queries that answer a page of messages as one row.

A row per message would give the interpreter lock away at each of them (measured beside a busy loop: 340 ms for a page of
256, against 11 ms). So a page comes as one JSON array of the short fields, and one blob with all properties and payloads
behind each other.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from storage.interface import TextPage
from storage.names import prefix_end
from storage.records import InboxEntry, Message
from storage.sqlite.unsound import PAGE, Page, unreadable, unsound_among, unsound_behind

_BODY = "CAST(group_concat(m.properties || m.payload, '') AS BLOB)"
_FIELDS = (
    """m.id, m.topic, m.seq, m.user, m.device, m.time, m.qos, m.retain, m.expires, length(m.properties), length(m.payload)"""
)
_STORED = "store AS m JOIN conversations AS c ON c.id = m.conversation"


_WITHIN = """
    sums AS (
        SELECT place, sum(size) OVER (ORDER BY place {order} ROWS UNBOUNDED PRECEDING) - ifnull(size, 0) AS before FROM sizes
    ),
    page AS (SELECT {ends}(place) AS last FROM sums WHERE ifnull(before, 0) < :max_bytes)
"""
"""Of ``sizes``, in order of its ``place``: the last one that :max_bytes of payload have room for."""


def _page(place: str, source: str, order: str) -> str:
    """A query of messages ``m`` in order of ``place``, up to :limit of them and :max_bytes of payload (one at least)."""
    ends = "min" if order == "DESC" else "max"
    within = "<=" if order == "ASC" else ">="
    return f"""
        WITH
        sizes AS (SELECT {place} AS place, length(m.payload) AS size FROM {source} ORDER BY {place} {order} LIMIT :limit),
        {_WITHIN.format(order=order, ends=ends)}
        SELECT {{columns}} FROM (
            SELECT {{inner}} FROM {source} AND {place} {within} (SELECT last FROM page) ORDER BY {place} {order} LIMIT :limit
        ) AS m
    """


_MESSAGE_COLUMNS = f"json_group_array(json_array({_FIELDS})), {_BODY}"
_MESSAGE_INNER = "m.*, c.topic AS topic"
_CONVERSATION = f"{_STORED} WHERE c.topic = :topic AND m.seq > :after AND m.seq < :before"
_CONVERSATION_UP = _page("m.seq", _CONVERSATION, "ASC").format(columns=_MESSAGE_COLUMNS, inner=_MESSAGE_INNER)
_CONVERSATION_DOWN = _page("m.seq", _CONVERSATION, "DESC").format(columns=_MESSAGE_COLUMNS, inner=_MESSAGE_INNER)
_TAIL = _page("m.id", f"{_STORED} WHERE m.id > :after", "ASC").format(columns=_MESSAGE_COLUMNS, inner=_MESSAGE_INNER)
_PLACES = PAGE.replace("{e}.seq", "m.place").replace("{e}", "m")
_INBOX = f"""
    WITH
    asked AS MATERIALIZED (
        SELECT seq, message, target, last FROM entries
        WHERE user = (SELECT id FROM users WHERE key = :user) AND last > :after AND last < :until AND seq > :after
        ORDER BY last LIMIT :limit
    ),
    sizes AS (SELECT s.seq AS place, length(m.payload) AS size FROM asked AS s LEFT JOIN store AS m ON m.id = s.message),
    {_WITHIN.format(order="ASC", ends="max")}
    SELECT json_group_array(json_array({_FIELDS}, m.place, m.target, m.message)), {_BODY}, {_PLACES} FROM (
        SELECT {_MESSAGE_INNER}, s.seq AS place, s.target AS target, s.message AS message, s.last AS last FROM asked AS s
        LEFT JOIN store AS m ON m.id = s.message LEFT JOIN conversations AS c ON c.id = m.conversation
        WHERE s.seq <= (SELECT last FROM page)
    ) AS m
"""
"""In the order of the view (`storage.sqlite.runs`): nothing sorts it."""
_TAIL_ROWS = f"""
    SELECT m.id, c.topic, m.user, m.device, m.time, m.qos, m.payload, m.retain, m.expires, m.properties, m.seq
    FROM {_STORED} WHERE m.id > ? ORDER BY m.id LIMIT ?
"""
_MAYBE_TEXT = """
    (m.properties != x'' OR m.payload = x'' OR ((m.payload < x'80' OR m.payload BETWEEN x'c2' AND x'f5')
    AND instr(substr(m.payload, 1, 256), x'00') = 0 AND instr(substr(m.payload, 1, 256), x'ff') = 0))
"""
"""What no payload begins with, or has, that is UTF-8 without NUL. SQLite sees that in a tenth of the time that a row takes."""
_TEXTS = _page("m.id", f"{_STORED} WHERE m.id > :after AND m.id <= :end AND {_MAYBE_TEXT}", "ASC").format(
    columns=_MESSAGE_COLUMNS, inner=_MESSAGE_INNER
)
_TEXT_ROWS = _TAIL_ROWS.replace("m.id > ?", f"m.id > ? AND m.id <= ? AND {_MAYBE_TEXT}")
_SOME = "SELECT max(id) FROM (SELECT id FROM store WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)"
_BETWEEN = "SELECT count(*) FROM store WHERE id > ? AND id <= ?"
_PASSED = 4
"""Times the messages of a page, of which it is chosen: some milliseconds, in which a reader holds a snapshot."""
_BY_ID = f"""
    SELECT {_MESSAGE_COLUMNS} FROM (SELECT {_MESSAGE_INNER} FROM {_STORED} WHERE m.id = :id) AS m
"""
_RETAINED = _page("m.topic", "retained AS m WHERE m.topic > :after AND m.topic >= :prefix AND m.topic < :end", "ASC").format(
    columns=_MESSAGE_COLUMNS, inner="m.*"
)
_RETAINED_IDS = f"""
    SELECT {_MESSAGE_COLUMNS} FROM (SELECT m.* FROM retained AS m WHERE m.id IN (SELECT value FROM json_each(:ids))) AS m
"""

LAST = (1 << 63) - 1


def _rows(connection: sqlite3.Connection, query: str, arguments: dict[str, object]) -> list[tuple[Message | None, list[Any]]]:
    """The messages of a page, each with what its row holds beside the message."""
    ((fields, body),) = connection.execute(query, arguments).fetchall()
    return _taken_apart(fields, body)


def _taken_apart(fields: str, body: bytes) -> list[tuple[Message | None, list[Any]]]:
    rows, at = [], 0
    for id, topic, seq, user, device, time, qos, retain, expires, properties, payload, *more in json.loads(fields):
        message = None
        if id is not None:
            middle = at + properties
            end = middle + payload
            message = Message(id, topic, user, device, time, qos, body[middle:end], retain == 1, expires, body[at:middle], seq)
            at = end
        rows.append((message, more))
    return rows


def _messages(connection: sqlite3.Connection, query: str, **arguments: object) -> list[Message]:
    return [message for message, _ in _rows(connection, query, arguments) if message is not None]


def inbox(connection: sqlite3.Connection, user: str, after: int, limit: int, max_bytes: int) -> list[InboxEntry]:
    """A page of an inbox, which ends before a row that does not say what its entries are."""
    asked = {"user": user, "after": after, "until": LAST, "limit": limit, "max_bytes": max_bytes}
    try:
        ((fields, body, *places),) = connection.execute(_INBOX, asked).fetchall()
        damaged = unsound_among(connection, user, after, Page(*places))
    except sqlite3.OperationalError as error:
        damaged = unsound_behind(connection, user, after, error)
    if damaged is not None:
        ((fields, body, *_),) = connection.execute(_INBOX, asked | {"until": damaged.last}).fetchall()
        if fields == "[]":
            raise unreadable(damaged)
    rows = _taken_apart(fields, body)
    missing = [more[2] for message, more in rows if message is None]
    kept = {message.id: message for message in _retained_by_id(connection, missing)} if missing else {}
    return [InboxEntry(place, message or kept.get(id), target or "") for message, (place, target, id) in rows]


def _retained_by_id(connection: sqlite3.Connection, ids: list[int]) -> list[Message]:
    return _messages(connection, _RETAINED_IDS, ids=json.dumps(ids))


def conversation(
    connection: sqlite3.Connection, topic: str, after: int, before: int, limit: int, newest_first: bool, max_bytes: int
) -> list[Message]:
    """A page of a conversation."""
    query = _CONVERSATION_DOWN if newest_first else _CONVERSATION_UP
    return _messages(connection, query, topic=topic, after=after, before=before or LAST, limit=limit, max_bytes=max_bytes)


def tail(connection: sqlite3.Connection, after: int, limit: int, max_bytes: int) -> list[Message]:
    """A page of the store by message id."""
    return _messages(connection, _TAIL, after=after, limit=limit, max_bytes=max_bytes)


def tail_by_rows(connection: sqlite3.Connection, after: int, limit: int, max_bytes: int) -> list[Message]:
    """The same, a row each: a third of the processor time, for a process in which nobody else wants the interpreter's lock."""
    return _by_rows(connection.execute(_TAIL_ROWS, (after, limit)), max_bytes)


def _by_rows(rows: Iterable[tuple[Any, ...]], max_bytes: int) -> list[Message]:
    page, size = [], 0
    for id, topic, user, device, time, qos, payload, retain, expires, properties, seq in rows:
        if size >= max_bytes:
            break
        page.append(Message(id, topic, user, device, time, qos, payload, retain == 1, expires, properties, seq))
        size += len(payload)
    return page


def texts(connection: sqlite3.Connection, after: int, through: int, limit: int, max_bytes: int, *, by_rows: bool) -> TextPage:
    """What may be text of the next messages; as a page of `tail`, or of `tail_by_rows`."""
    (end,) = connection.execute(_SOME, (after, through, _PASSED * limit)).fetchone()
    if end is None:
        return TextPage([], through, 0)
    if by_rows:
        page = _by_rows(connection.execute(_TEXT_ROWS, (after, end, limit)), max_bytes)
    else:
        page = _messages(connection, _TEXTS, after=after, end=end, limit=limit, max_bytes=max_bytes)
    if len(page) == limit or sum(len(message.payload) for message in page) >= max_bytes:
        end = page[-1].id
    (stored,) = connection.execute(_BETWEEN, (after, end)).fetchone()
    return TextPage(page, end, max(0, stored - len(page)))  # fewer, where some were removed meanwhile


def message_by_id(connection: sqlite3.Connection, id: int) -> Message | None:
    """One stored message."""
    found = _messages(connection, _BY_ID, id=id)
    return found[0] if found else None


def messages_by_id(connection: sqlite3.Connection, ids: Sequence[int]) -> list[Message]:
    """Those of the messages that are stored, in the order of ``ids``."""
    return [message for id in ids if (message := message_by_id(connection, id)) is not None]


def retained(connection: sqlite3.Connection, prefix: str, after: str, limit: int, max_bytes: int) -> list[Message]:
    """A page of the retained messages by topic."""
    end = prefix_end(prefix) or b""  # any text comes before any blob
    return _messages(connection, _RETAINED, prefix=prefix, end=end, after=after, limit=limit, max_bytes=max_bytes)
