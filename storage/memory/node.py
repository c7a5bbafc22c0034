"""One node's storage over a `MemoryDatabase`, and what a test can do to its calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from storage.cluster import Cluster
from storage.errors import FencedOut, StorageUnavailable
from storage.interface import promised
from storage.memory.cluster import MemoryCluster
from storage.memory.database import MemoryDatabase
from storage.memory.group import GroupCommit
from storage.memory.storage import MemoryStorage
from storage.records import Operation


class Faults:
    """What happens to a node's calls. ``away``: none takes effect, each raises `StorageUnavailable`. ``lose_answers``: each
    takes effect and raises that all the same. ``deaf``: one that waits for `thaw` does not hear its first cancellation, as a
    database's driver may not. ``waiting``: the calls that wait, by name."""

    def __init__(self) -> None:
        self.away = False
        self.lose_answers = False
        self.deaf = False
        self.waiting: list[str] = []
        self._freeze_at = ""
        self._may_begin = asyncio.Event()
        self._may_end = asyncio.Event()
        self.thaw()

    def freeze(self, *, after: bool = False) -> None:
        """Every call waits, and has not taken effect; ``after``: it has, and its answer waits."""
        self._may_end.clear()
        if not after:
            self._may_begin.clear()

    def freeze_at(self, call: str) -> None:
        """Freeze once a call of this name is made, such as a step of a commit (`storage.memory.group`)."""
        self._freeze_at = call

    def thaw(self) -> None:
        """All that waits goes on."""
        self._may_begin.set()
        self._may_end.set()

    async def before(self, call: str) -> None:
        """A call is made."""
        if call == self._freeze_at:
            self._freeze_at = ""
            self.freeze()
        await self._pass(self._may_begin, call)
        if self.away:
            raise StorageUnavailable(f"{call}: the database is away")

    async def after(self, call: str) -> None:
        """It has taken effect."""
        await self._pass(self._may_end, call)
        if self.away or self.lose_answers:
            raise StorageUnavailable(f"{call}: its answer was lost")

    async def _pass(self, gate: asyncio.Event, call: str) -> None:
        if not gate.is_set():
            self.waiting.append(call)
            try:
                await gate.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
                await gate.wait()
            finally:
                self.waiting.remove(call)


class MemoryNode(MemoryStorage):
    """A `storage.interface.Storage` whose data is its database's, so that `MemoryStorage` has nothing to hold here."""

    def __init__(self, database: MemoryDatabase, name: str = "") -> None:
        self.database = database
        self.name = name
        self.faults = Faults()
        self.cluster_settings: Mapping[str, str] = {}
        self._part: MemoryCluster | None = None
        self._run: GroupCommit | None = None

    @property
    def cluster(self) -> Cluster | None:
        """See `storage.interface.Storage`."""
        return self._part

    async def open(self) -> None:
        """Join: see `storage.interface.Storage`."""
        await self.faults.before("open")
        self._part = MemoryCluster(self.database, self.faults, self.name, self.cluster_settings)
        await self.faults.after("open")

    async def close(self) -> None:
        """Leave, unless the database is away or this node was marked dead. What is half done is left to the others."""
        part, self._part = self._part, None
        if part is not None:
            with suppress(StorageUnavailable, FencedOut):
                run, self._run = self._run, None
                settled = run is None or run.settled
                await part.leave(self.database.storage.last_id_of(part.me.number), settled=settled)

    async def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer`."""
        await self.faults.before("commit")
        part = self._open_part()
        node = self.database.alive(part.me.token)
        run = self._run
        if run is not None and not _same(run.group, group):
            if not run.settled:  # its caller gave up
                await run.run(self.faults, part.rematch)
            run = None
        if run is None:
            run = self._run = GroupCommit(self.database, node, group)
        await run.run(self.faults, part.rematch)
        await self.faults.after("commit")

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        await self.faults.before("last_id")
        last = self.database.storage.last_id_of(self._open_part().me.number)
        await self.faults.after("last_id")
        return last

    def _open_part(self) -> MemoryCluster:
        if self._part is None:
            raise StorageUnavailable("memory storage is closed")
        return self._part


def _same(one: Sequence[Operation], other: Sequence[Operation]) -> bool:
    return bool(one) and len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _call(name: str) -> Callable[..., Any]:
    async def call(self: MemoryNode, *args: Any, **named: Any) -> Any:
        await self.faults.before(name)
        answer = await getattr(self.database.storage, name)(*args, **named)
        await self.faults.after(name)
        return answer

    return call


def _pages(name: str) -> Callable[..., Any]:
    async def pages(self: MemoryNode, *args: Any, **named: Any) -> AsyncIterator[Any]:
        await self.faults.before(name)
        async for page in getattr(self.database.storage, name)(*args, **named):
            await self.faults.after(name)
            yield page

    return pages


# All that a node's storage does not do itself it hands to the database's, by way of its `Faults`.
for _name in promised() - vars(MemoryNode).keys():
    _made = _pages if inspect.isasyncgenfunction(getattr(MemoryStorage, _name, None)) else _call
    setattr(MemoryNode, _name, _made(_name))
