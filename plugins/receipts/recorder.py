"""Keeps since when devices stand where they stand, and users have read what they have: a row for each.

It is told of the progress that is stored anyway, and notes it in memory; `Recorder.flush` writes what was noted. So nobody
waits for it, and a device costs a write for each flush while it moves, whatever the number of messages. What a crash loses
makes the times wider apart, and never wrong.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

from broker.amqtt import Services, Undecided
from broker.ledger import READ, TABLE, Step, Steps
from storage.errors import StorageError
from storage.records import DeviceKey, DropRow, MarkRead, Operation, Progress, PutRow, Row, RowKey

log = logging.getLogger(__name__)

_MOST_PENDING = 200_000
_MOST_KNOWN = 20_000
_AT_ONCE = 500


class Known(NamedTuple):
    """A row as it was written last."""

    steps: Steps
    revision: int


class Recorder:
    """``keep``: ms for which steps are kept. ``timeout``: seconds that a write may wait for storage."""

    def __init__(self, server: Services, keep: int, timeout: float) -> None:
        self._server = server
        self._keep = keep
        self._timeout = timeout
        self._pending: dict[RowKey, Step] = {}
        self._known: OrderedDict[RowKey, Known] = OrderedDict()

    # --- what is noted: on the way of messages, so it only remembers ---------------------------------------------------

    def progressed(self, operations: Sequence[Operation]) -> None:
        """Devices have come so far."""
        now = self._server.wall()
        for op in operations:
            if isinstance(op, Progress):
                self._note(RowKey(TABLE, *op.device), Step(op.offset, op.cursor, now))

    def read(self, marks: Sequence[MarkRead]) -> None:
        """Users have read so far."""
        now = self._server.wall()
        for mark in marks:
            self._note(RowKey(READ, mark.user, mark.topic), Step(mark.position, mark.position, now))

    def _note(self, key: RowKey, step: Step) -> None:
        if key in self._pending or len(self._pending) < _MOST_PENDING:
            self._pending[key] = step

    # --- what is written -----------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what was noted since the last call. What storage does not take now is noted still."""
        pending, self._pending = self._pending, {}
        keys = list(pending)
        for start in range(0, len(keys), _AT_ONCE):
            some = {key: pending[key] for key in keys[start : start + _AT_ONCE]}
            try:
                await self._write(some)
            except (StorageError, Undecided) as error:
                log.debug("steps of %d devices are written later: %s", len(some), error)
                self._again(some)

    def _again(self, steps: dict[RowKey, Step]) -> None:
        for key, step in steps.items():
            self._known.pop(key, None)
            self._pending.setdefault(key, step)

    async def _write(self, some: dict[RowKey, Step]) -> None:
        writes: list[tuple[PutRow, Steps]] = []
        for key, step in some.items():
            known = self._known.get(key) or await self._read(key)
            steps = known.steps
            steps.forget(step.at - self._keep)
            steps.add(step)
            writes.append((PutRow(*key, steps.packed(), expected=known.revision), steps))
        await self._server.commit([write for write, _ in writes], self._timeout)
        for write, steps in writes:
            key = RowKey(write.table, write.part, write.key)
            if write.error is not None:  # another node wrote it meanwhile
                self._again({key: some[key]})
            else:
                self._know(key, Known(steps, write.revision))

    async def _read(self, key: RowKey) -> Known:
        row = await self._server.storage.row(*key)
        return Known(Steps(), 0) if row is None else Known(Steps.unpacked(row.value), row.revision)

    def _know(self, key: RowKey, known: Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    # --- of a user that is erased --------------------------------------------------------------------------------------

    def forget(self, user: str) -> None:
        """Write nothing of what was noted of a user."""
        for keys in (self._pending, self._known):
            for key in [key for key in keys if key.part == user]:
                del keys[key]

    async def erase(self, user: str) -> bool:
        """Remove a page of a user's rows; whether there may be more."""
        self.forget(user)
        for table in (TABLE, READ):
            if rows := await self._server.storage.rows(table, user, limit=_AT_ONCE):
                await self._drop(rows)
                return True
        return False

    # --- what is removed -----------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Remove the rows of devices that are gone, and of read positions that did not move for as long as is kept."""
        removed = 0
        before = self._server.wall() - self._keep
        for table, gone in ((TABLE, self._device_gone), (READ, None)):
            async for parts in self._server.storage.parts(table):
                for part in parts:
                    async for rows in self._rows(table, part):
                        old = [row for row in rows if Steps.unpacked(row.value).steps[-1].at < before]
                        out = old if gone is None else [row for row in rows if await gone(row)]
                        await self._drop(out)
                        removed += len(out)
        return removed

    async def _device_gone(self, row: Row) -> bool:
        return await self._server.storage.device(DeviceKey(row.part, row.key)) is None

    async def _rows(self, table: str, part: str) -> AsyncIterator[list[Row]]:
        after = ""
        while rows := await self._server.storage.rows(table, part, after=after, limit=_AT_ONCE):
            yield rows
            after = rows[-1].key

    async def _drop(self, rows: Iterable[Row]) -> None:
        drops: list[Operation] = [DropRow(row.table, row.part, row.key, expected=row.revision) for row in rows]
        if drops:
            await self._server.commit(drops, self._timeout)
