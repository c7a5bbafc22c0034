"""Several writers of one database as one storage, so that the suite runs over them: each call goes to the next one.

A device stays with the writer that opened it last, as a connection does: a group is cut where the next operation is of a device
of another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from storage.cluster import Cluster
from storage.interface import Storage, promised
from storage.records import Append, DeviceKey, OpenSession, Operation


class Several:
    """A `storage.interface.Storage`, made of several that are not opened yet."""

    def __init__(self, writers: Sequence[Storage]) -> None:
        self.writers = writers
        self._next = 0
        self._homes: dict[DeviceKey, int] = {}
        self._begun: tuple[Sequence[Operation], list[tuple[int, list[Operation]]]] | None = None

    @property
    def cluster(self) -> Cluster | None:
        """That of the first one."""
        return self.writers[0].cluster

    async def open(self) -> None:
        """Open all, as new ones: no device has a home."""
        self._next, self._homes, self._begun = 0, {}, None
        await asyncio.gather(*(writer.open() for writer in self.writers))

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(writer.close() for writer in self.writers))

    async def last_id(self) -> int:
        """The highest of all: each tells that of its own number."""
        return max(await asyncio.gather(*(writer.last_id() for writer in self.writers)))

    def turn(self) -> int:
        """Whose turn it is."""
        self._next = (self._next + 1) % len(self.writers)
        return self._next

    async def commit(self, group: Sequence[Operation]) -> None:
        """Commit the parts of a group, each by its writer; one that is tried again goes on at the part that failed."""
        if self._begun is None or self._begun[0] is not group:
            self._begun = (group, self._parts(group))
        _, parts = self._begun
        if not parts:
            await self.writers[self.turn()].commit(group)
        while parts:
            number, part = parts[0]
            await self.writers[number].commit(part)
            del parts[0]
        self._begun = None

    def _parts(self, group: Sequence[Operation]) -> list[tuple[int, list[Operation]]]:
        parts: list[tuple[int, list[Operation]]] = []
        for op in group:
            key = (op.received[0] if op.received else None) if isinstance(op, Append) else getattr(op, "device", None)
            if isinstance(op, OpenSession):
                self._homes[op.device] = parts[-1][0] if parts else self.turn()
            home = self._homes.get(key) if key is not None else None
            if home is None:
                home = parts[-1][0] if parts else self.turn()
            if not parts or parts[-1][0] != home:
                parts.append((home, []))
            parts[-1][1].append(op)
        return parts


def _forward(name: str) -> Any:
    def call(self: Several, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.writers[self.turn()], name)(*args, **kwargs)

    return call


for _name in promised():
    if not hasattr(Several, _name):
        setattr(Several, _name, _forward(_name))
