"""Rows in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Any

from storage import rules
from storage.names import PARTS, pages_of_names
from storage.records import DropRow, PutRow, Row


class _Part:
    """The rows of one part, by key as UTF-8 bytes, and those keys in order."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.order: list[bytes] = []


class MemoryRows:
    """A `storage.interface.Rows`, and what writes them."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, _Part]] = {}
        self._revision = 0
        self.apply: dict[type, Callable[[Any], None]] = {PutRow: self._put, DropRow: self._drop}

    def _find(self, table: str, part: str, key: str) -> Row | None:
        found = self._tables.get(table, {}).get(part)
        return found.rows.get(key.encode(errors="surrogatepass")) if found else None

    def _put(self, op: PutRow) -> None:
        found = self._find(op.table, op.part, op.key)
        if not rules.changes_row(op, found.revision if found else 0):
            return
        self._revision += 1
        op.revision = self._revision
        part = self._tables.setdefault(op.table, {}).setdefault(op.part, _Part())
        key = op.key.encode()
        if found is None:
            insort(part.order, key)
        part.rows[key] = Row(op.table, op.part, op.key, bytes(op.value), op.revision)

    def _drop(self, op: DropRow) -> None:
        found = self._find(op.table, op.part, op.key)
        if found is None or not rules.changes_row(op, found.revision):
            return
        self._revision += 1
        op.revision = self._revision
        part = self._tables[op.table][op.part]
        key = op.key.encode()
        del part.rows[key], part.order[bisect_left(part.order, key)]
        if not part.rows:
            del self._tables[op.table][op.part]

    async def row(self, table: str, part: str, key: str) -> Row | None:
        """See `storage.interface.Rows`."""
        return self._find(table, part, key)

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]:
        """See `storage.interface.Rows`."""
        found = self._tables.get(table, {}).get(part)
        if found is None:
            return []
        begins = prefix.encode()
        start = max(bisect_right(found.order, after.encode()), bisect_left(found.order, begins))
        keys = islice(found.order, start, start + max(limit, 0))
        page = (found.rows[key] for key in keys if key.startswith(begins))
        return rules.within(page, max_bytes, lambda row: len(row.value))

    async def parts(self, table: str) -> AsyncIterator[list[str]]:
        """See `storage.interface.Rows`."""
        names = sorted(self._tables.get(table, ()), key=str.encode)
        for page in pages_of_names(names, PARTS):
            yield page
