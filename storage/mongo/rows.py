"""Rows: what plugins keep, of which there may be much.

Each write names the revision that it saw, so that of several writers one is first and the others look again. It leaves the
version of its group in ``recent``: whose answer was lost finds its own write there, also beneath a few later ones of others. A
removal leaves a mark for a day, so that what comes late finds it, and what is put anew has a higher revision.

What says something of a message (`storage.rows.PutRow.of`) is in the store with that, as the row's revision before, the one
after, and the value. Who finishes for a dead node writes it where the row is still at the first: else that node has written it,
or somebody else has since, behind whom it must not come. Once it is written it goes from the store: it may have the words of
others, whose erasure would not find them there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateMany, UpdateOne

from storage import rules
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw, row_fields, row_id
from storage.mongo.reads import KEPT, names_from
from storage.mongo.state import State, batches
from storage.mongo.view import View
from storage.mongo.writes import CHUNK, bulk_write
from storage.names import PARTS, pages_of_names
from storage.records import DropRow, Operation, PutRow, Row, RowKey

_RECENT = 8
"""Writes of a row that others may make before one whose answer was lost no longer finds its own."""
_PAGE = 256
_TOLD = 100
"""Bytes of a row in the store beside its names and value, at most."""


@dataclass(slots=True)
class StoredRow:
    """A row as the database has it: ``value`` None for a mark; ``revision`` 0 where there is nothing at all."""

    revision: int = 0
    value: bytes | None = None
    recent: Sequence[int] = ()

    @property
    def current(self) -> int:
        """The revision that readers see."""
        return self.revision if self.value is not None else 0


class PlannedRows:
    """The part of a plan that is about rows. No I/O."""

    def __init__(self, group: Iterable[Operation], view: View) -> None:
        self._view = view
        self._sizes: dict[int, int] = {}
        """By message id: what its rows add to its document at most, in bytes."""
        for op in group:
            if isinstance(op, (PutRow, DropRow)) and op.of is not None:
                mid = op.of.message.id
                self._sizes[mid] = self._sizes.get(mid, 0) + _told_bytes(op)
        self._after: dict[RowKey, StoredRow] = {}
        self._revisions: list[tuple[PutRow | DropRow, int]] = []
        self.told: dict[int, list[list[Any]]] = {}
        """By message id: what is stored with it of what is written for it."""

    def apply(self, op: PutRow | DropRow) -> None:
        """See `storage.records.PutRow` and `DropRow`."""
        key = RowKey(op.table, op.part, op.key)
        before = self._after.get(key) or self._view.rows[key]
        if not rules.changes_row(op, before.current):
            self._revisions.append((op, 0))
            return
        revision = before.revision + 1 if before.revision else self._view.now  # above what an earlier one had, and its mark
        value = bytes(op.value) if isinstance(op, PutRow) else None
        self._after[key] = StoredRow(revision, value)
        self._revisions.append((op, revision))
        if op.of is not None:
            self.told.setdefault(op.of.message.id, []).append([*key, before.revision, revision, value])

    def beside(self, mid: int) -> int:
        """Bytes that a message's rows add to its document in the store, at most."""
        return self._sizes.get(mid, 0) if self._sizes else 0

    def writes(self) -> dict[RowKey, UpdateOne]:
        """One for each row that is another one after the group, and that is not written yet."""
        return {key: self._write(key, after) for key, after in self._after.items() if key not in self._view.rows_written}

    def _write(self, key: RowKey, after: StoredRow) -> UpdateOne:
        return _write(key, self._view.rows[key], after, self._view.version, self._view.now)

    def fill(self) -> None:
        """Fill in the results."""
        for op, revision in self._revisions:
            op.revision = revision


def _told_bytes(op: PutRow | DropRow) -> int:
    return (
        _TOLD + len(f"{op.table}{op.part}{op.key}".encode(errors="replace")) + (len(op.value) if isinstance(op, PutRow) else 0)
    )


def _write(key: RowKey, before: StoredRow, after: StoredRow, version: int, now: int) -> UpdateOne:
    query: Raw = {"_id": row_id(key), **row_fields(key)}
    fields: Raw = {"revision": after.revision, "recent": [*before.recent, version][-_RECENT:], "v": version}
    if after.value is None:
        fields |= {"value": b"", "gone": 1, "gone_at": now}
        change: Raw = {"$set": fields}
    else:
        change = {"$set": {**fields, "value": after.value}, "$unset": {"gone": "", "gone_at": ""}}
    seen = before.revision
    return UpdateOne({**query, "revision": seen or {"$lt": 0}}, change, upsert=not seen)


async def load_rows(state: State, view: View, group: Iterable[Operation]) -> None:
    """What a group's rows are before it."""
    keys = {RowKey(op.table, op.part, op.key) for op in group if isinstance(op, (PutRow, DropRow)) and op.error is None}
    view.rows.update(await _find(state, keys))


async def _find(state: State, keys: Iterable[RowKey]) -> dict[RowKey, StoredRow]:
    found: dict[RowKey, StoredRow] = {}
    for batch in batches(keys, CHUNK):
        found.update(dict.fromkeys(batch, StoredRow()))
        ids = {row_id(key): key for key in batch}
        query: Raw = {"_id": {"$in": list(ids)}} if len(ids) > 1 else {"_id": {"$eq": next(iter(ids))}}
        with storage_errors():
            async for d in state.collections.rows.find(query):
                value = None if d.get("gone") else bytes(d["value"])
                found[ids[d["_id"]]] = StoredRow(d["revision"], value, d["recent"])
    return found


async def write_rows(state: State, view: View, writes: dict[RowKey, UpdateOne]) -> bool:
    """Make the writes. Those that are there by now are noted in ``view.rows_written``; whether that is all of them: else
    somebody was faster, and ``view.rows`` has what is there now."""
    if await bulk_write(state.collections.rows, list(writes.values())) == len(writes):
        view.rows_written.update(writes)
        return True
    found = await _find(state, writes)
    mine = {key for key, row in found.items() if view.version in row.recent}
    view.rows_written |= mine
    view.rows.update({key: row for key, row in found.items() if key not in mine})
    return len(mine) == len(writes)


async def forget_told(state: State, ids: Iterable[int]) -> None:
    """What these messages say of rows is written: the store needs it no more."""
    for some in batches(dict.fromkeys(ids), CHUNK):
        await bulk_write(state.collections.store, [UpdateMany({"mid": {"$in": some}}, {"$unset": {"rows": ""}})])


class Saying:
    """The rows of a group that say something of its messages, which may turn out to be another node's by their names."""

    def __init__(self, group: Iterable[Operation]) -> None:
        self._rows = [(op, op.of) for op in group if isinstance(op, (PutRow, DropRow)) and op.of is not None]
        self._ids = {id(of): of.message.id for _, of in self._rows}

    @property
    def messages(self) -> set[int]:
        """Their ids."""
        return {of.message.id for _, of in self._rows if of.error is None}

    def follow(self) -> None:
        """Have the rows name the ids that the messages have by now."""
        for op, of in self._rows:
            if isinstance(op, PutRow) and self._ids[id(of)] != of.message.id:
                op.name(of.message.id)
        self._ids = {id(of): of.message.id for _, of in self._rows}


async def finish_rows(state: State, pending: Sequence[Raw]) -> None:
    """Write what messages of the store say of rows, in the order of the messages, where it is not written. May be repeated, by
    several at once."""
    now = await state.now()
    for document in pending:
        for table, part, name, seen, revision, value in document.get("rows", ()):
            key = RowKey(table, part, name)
            before = (await _find(state, [key]))[key]
            if before.revision == seen:
                after = StoredRow(revision, value if value is None else bytes(value))
                await bulk_write(state.collections.rows, [_write(key, before, after, document["v"], now)])
    await forget_told(state, (document["mid"] for document in pending if document.get("rows")))


# --- reads ---------------------------------------------------------------------------------------------------------


async def row(state: State, key: RowKey) -> Row | None:
    """See `storage.interface.Rows`."""
    with storage_errors():
        found = await state.collections.rows.find_one({"_id": {"$eq": row_id(key)}})
    return _row(found) if found and not found.get("gone") else None


async def rows(state: State, table: str, part: str, after: str, prefix: str, limit: int, max_bytes: int) -> list[Row]:
    """See `storage.interface.Rows`."""
    # By its index, which has the marks apart: where rows come and go, as of a queue, there are many.
    query: Raw = {"table": {"$eq": table}, "part": {"$eq": part}, "gone": None, "name": names_from(prefix, after)}
    page: list[Row] = []
    size = 0
    if limit < 1:
        return page
    with storage_errors():
        async with state.collections.rows.find(query).sort("name", 1).limit(limit).batch_size(min(limit, _PAGE)) as cursor:
            async for document in cursor:
                page.append(_row(document))
                size += len(page[-1].value)
                if size >= max_bytes:
                    break
    return page


def _row(document: Raw) -> Row:
    d = document
    return Row(d["table"], d["part"], d["name"], bytes(d["value"]), d["revision"])


async def parts(state: State, table: str) -> AsyncIterator[list[str]]:
    """See `storage.interface.Rows`. A query for each page of rows, or of parts, that there are."""
    query: Raw = {"table": {"$eq": table}, **KEPT}
    while True:
        with storage_errors():
            cursor = state.collections.rows.find(query, {"part": 1}).sort("part", 1).limit(PARTS)
            found = list(dict.fromkeys([document["part"] async for document in cursor]))
        for page in pages_of_names(found, PARTS):
            yield page
        if not found:
            return
        query["part"] = {"$gt": found[-1]}
