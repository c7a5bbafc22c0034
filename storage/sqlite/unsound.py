"""Rows of ``sync`` that do not say what their entries are, and what can still be told of them.

SQLite sees damage to its pages, not to what is in them. A run is *sound* (`storage.sqlite.runs`) where

- its ``run`` is a JSON array of as many integers as ``count`` says, up to `LONGEST`, and of one where there is none;
- what they make of ``message`` are ids that rise, but for those of removed entries, which are 0; the last is ``message``;
- it begins behind the row before it.

A wrong number that keeps to all of that is not noticed, where there is a message of that id.

What a reader does with one that is not: nobody is handed an entry of it, nor one behind it, so that no offset moves past what
may still be told (docs/laws.md, 3). Only `storage.sqlite.verify`, and an export, make something of it: a number that fits is
kept; an entry without one counts as removed.
"""

from __future__ import annotations

import json
import re
import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from storage.errors import UnreadableInbox
from storage.sqlite.runs import LONGEST

_ROWS = f"""
    SELECT u.key, s.seq - min({LONGEST}, s.seq - max(ifnull(s.before, 0), u.floor)) + 1, s.seq, s.user,
        iif(typeof(s.message) = 'integer', s.message, 0), iif(typeof(s.count) = 'integer', s.count, 0),
        iif(typeof(s.run) = 'text', CAST(s.run AS BLOB), s.run IS NOT NULL), ifnull(s.before, 0), s.target IS NOT NULL
    FROM (SELECT *, lag(seq) OVER (PARTITION BY user ORDER BY seq) AS before FROM sync WHERE {{which}}) AS s
    CROSS JOIN users AS u ON u.id = s.user WHERE s.run IS NOT NULL OR s.count IS NOT 1
"""
"""As `Unsound`, then the key before, and whether it is for one device. A ``run`` that is no text is 1, and none is 0."""
_ALL = f"{_ROWS.format(which='1')} AND s.seq > u.floor"
_OF_INBOX = _ROWS.format(
    which="""user = (SELECT id FROM users WHERE key = :user) AND seq <= :through AND seq >= ifnull((SELECT max(seq) FROM sync
        WHERE user = (SELECT id FROM users WHERE key = :user) AND seq <= :after), 0)"""
)
"""Those past :after, and the one before them."""
_AS_LONG = """
    SELECT ifnull(json_array_length(run), 1) = count FROM sync WHERE user = (SELECT id FROM users WHERE key = ?) AND seq = ?
"""
_LAST = (1 << 63) - 1
_KNOWN = """
    SELECT value FROM json_each(?) WHERE value IN (SELECT id FROM store) OR value IN (SELECT id FROM retained)
"""
_NUMBER = re.compile(r"-?[0-9]{1,19}")


class Unsound(NamedTuple):
    """A row, and the first and last sequence of its entries: all behind the row before it are its own, up to `LONGEST`."""

    user: str
    first: int
    last: int
    number: int
    """Of the user."""
    message: int
    length: int
    """The column ``count``."""
    run: bytes | int


class Sound(NamedTuple):
    """What such a row is made, and how many of its entries could be told."""

    message: int
    length: int
    run: str | None
    told: int


def unsound(connection: sqlite3.Connection) -> list[Unsound]:
    """All that there are, of the users that there are. Reads all of ``sync``."""
    return [Unsound(*row[:7]) for row in connection.execute(_ALL) if not _is_sound(*row[2:])]


class Page(NamedTuple):
    """What a query says of the entries of a page: their lowest and highest sequence, number, and sum of sequences, the highest
    key of their rows, and by how much any is behind its row's key."""

    low: int | None
    high: int
    number: int
    sum: int
    key: int
    over: int


PAGE = "min({e}.seq), max({e}.seq), count({e}.seq), sum({e}.seq), max({e}.last), max({e}.seq - {e}.last)"
_NO_PAGE = Page(None, 0, 0, 0, 0, 0)


def unsound_among(connection: sqlite3.Connection, user: str, after: int, page: Page) -> Unsound | None:
    """The first of an inbox's rows that a page of it is of, or, where it has no entries, that it could be of.

    The page was read from after ``after``. Where its entries follow each other within their rows, all rows but the last have as
    many as they say; where that has as well, nothing else is looked at.
    """
    low, high, number, sum_, key, over = page
    if low is not None:
        in_order = low == after + 1 and high == after + number and 2 * sum_ == number * (low + high) and over <= 0
        if in_order and connection.execute(_AS_LONG, (user, key)).fetchall() == [(1,)]:
            return None
    else:
        key = _LAST
    for row in connection.execute(_OF_INBOX, {"user": user, "after": after, "through": key}):
        if row[2] > after and not _is_sound(*row[2:]):
            return Unsound(*row[:7])
    return None


def is_no_json(error: sqlite3.Error) -> bool:
    """Whether a query ended at a row whose ``run`` is no JSON: nothing but runs has SQLite read JSON from the file."""
    return str(error) == "malformed JSON"


def unsound_behind(connection: sqlite3.Connection, user: str, after: int, error: sqlite3.OperationalError) -> Unsound:
    """The row at which a query ended that read an inbox from after ``after``; any other error is raised."""
    damaged = unsound_among(connection, user, after, _NO_PAGE) if is_no_json(error) else None
    if damaged is None:
        raise error
    return damaged


def _is_sound(seq: int, number: int, message: int, count: int, run: bytes | int, before: int, for_one: int) -> bool:
    """Whether a row has a run of which the module's rules are true."""
    if not 1 <= count <= min(LONGEST, seq - before) or not run or for_one:
        return False
    try:
        below = json.loads(run.decode()) if isinstance(run, bytes) else None
    except (ValueError, RecursionError):
        return False
    if type(below) is not list or len(below) != count or set(map(type, below)) != {int}:
        return False
    kept = [distance for distance in below if distance != message]
    return below[-1] in (0, message) and min(below) >= 0 and max(below) <= message and sorted(set(kept), reverse=True) == kept


def unreadable(of: Unsound) -> UnreadableInbox:
    """What who asked for one of its entries is told."""
    return UnreadableInbox(
        f"the inbox of {of.user!r} cannot be read from entry {of.first} on: the row of those up to {of.last} is damaged, and"
        " nothing behind them is handed out; stop the broker, and say tideline verify --repair",
        of.first,
    )


def made_sound(connection: sqlite3.Connection, of: Unsound) -> Sound:
    """What can be told of a row's entries; the others count as removed."""
    places = of.last - of.first + 1
    message = max(0, of.message)
    ids = _ids(message, _numbers(of.run, of.length, places), places)
    known = {id for (id,) in connection.execute(_KNOWN, (json.dumps(ids[:-1]),)).fetchall()}
    ids[:-1] = _rising([id if id in known else 0 for id in ids[:-1]], below=message)
    told = sum(id > 0 for id in ids)
    if places == 1:
        return Sound(ids[0], 1, None, told)
    return Sound(message, places, json.dumps([message - id for id in ids], separators=(",", ":")), told)


def _numbers(run: bytes | int, count: int, places: int) -> Sequence[int | None]:
    """The numbers of a run for its last ``places`` entries; none where it cannot be told which entry is whose."""
    if not isinstance(run, bytes):
        return []
    texts = [text.strip() for text in run.decode(errors="replace").strip().removeprefix("[").removesuffix("]").split(",")]
    if len(texts) not in (count, places):
        return []
    return [int(text) if _NUMBER.fullmatch(text) else None for text in texts[-places:]]


def _ids(message: int, numbers: Sequence[int | None], places: int) -> list[int]:
    """The message id of each entry, 0 for what is not told, or removed. The last is told by ``message`` itself."""
    ids = [message - number if number is not None else 0 for number in numbers]
    if numbers and numbers[-1] != message:
        ids[-1] = message
    return [0] * (places - len(ids)) + ids if ids else [0] * (places - 1) + [message]


def _rising(ids: Sequence[int], below: int) -> list[int]:
    """As many of them as rise, and stay below an id; 0 in place of the others."""
    ends: list[int] = []  # the lowest id at which so many end
    places: list[int] = []
    before: dict[int, int] = {}
    for place, id in enumerate(ids):
        if not 0 < id < below:
            continue
        length = bisect_left(ends, id)
        before[place] = places[length - 1] if length else -1
        ends[length : length + 1] = [id]
        places[length : length + 1] = [place]
    kept = [0] * len(ids)
    place = places[-1] if places else -1
    while place >= 0:
        kept[place] = ids[place]
        place = before[place]
    return kept
