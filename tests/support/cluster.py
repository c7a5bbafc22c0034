"""Several real brokers in the test's own process over one database in memory, and what may happen to them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from broker.clock import ServerTime
from broker.server import Server
from plugins.persistence import PersistencePlugin
from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.memory import MemoryDatabase, MemoryNode
from storage.records import Operation
from tests.support.broker import Broker, Loud, settings

LEASE = 1.0

_databases: dict[str, MemoryDatabase] = {}
_names = itertools.count()


class SharedPersistence(PersistencePlugin):
    """Stores in the database in memory that a test has made."""

    @dataclass
    class Config(PersistencePlugin.Config):
        url: str = "memory://"
        database: str = ""

    config: Config

    def storage(self) -> Storage:
        return MemoryNode(_databases[self.config.database])


class Held:
    """A call that was ``begun`` and waits until it ``may_go_on``."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()


class Node(Broker):
    """One node of a cluster."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.frozen = False
        """It froze by `freeze_after_commit`."""

    @property
    def storage(self) -> MemoryNode:
        assert isinstance(self.server.storage, MemoryNode)
        return self.server.storage

    @property
    def token(self) -> int:
        assert self.server.storage.cluster is not None
        return self.server.storage.cluster.me.token

    def freeze(self, *, after: bool = False) -> None:
        """The node does not reach the database, nor hear of that: its calls hang, ``after`` they took effect."""
        self.storage.faults.freeze(after=after)

    def freeze_after_commit(self) -> None:
        """The node freezes when its next group has been committed, and before it hears of that."""
        real = self.storage.commit

        async def commit(group: Sequence[Operation]) -> None:
            self.storage.commit = real  # type: ignore[method-assign]
            await real(group)
            self.freeze()
            self.frozen = True
            await self.storage.faults.after("commit")

        self.storage.commit = commit  # type: ignore[method-assign]

    def lose_answer(self, call: str) -> None:
        """The next such call of this node's part in the cluster takes effect, and nobody hears of it."""
        part = self.storage.cluster
        real = getattr(part, call)

        async def lost(*args: Any) -> Any:
            setattr(part, call, real)
            await real(*args)
            raise StorageUnavailable(f"{call}: its answer was lost")

        setattr(part, call, lost)

    def hold_call(self, call: str) -> Held:
        """The next such call of this node's part in the cluster waits."""
        part = self.storage.cluster
        real, held = getattr(part, call), Held()

        async def waits(*args: Any) -> Any:
            setattr(part, call, real)
            held.begun.set()
            await held.may_go_on.wait()
            return await real(*args)

        setattr(part, call, waits)
        return held

    def thaw(self) -> None:
        self.frozen = False
        self.storage.faults.thaw()

    async def kill(self) -> None:
        """The node is gone, without a word to anybody: the database hears no more of it, and its sockets are reset."""
        self.storage.faults.freeze()
        assert self.server._listeners is not None
        self.server._listeners.stop_accepting()
        for connection in list(self.server.connections):
            connection._transport.abort()
        await asyncio.gather(*(client.drop() for client in self._clients))


class Cluster:
    """A database, and the nodes that a test has started on it."""

    def __init__(self, stack: AsyncExitStack, lease: float, sections: dict[str, Any]) -> None:
        self.name = f"cluster-{next(_names)}"
        self.database = _databases[self.name] = MemoryDatabase(lease=lease)
        self.nodes: list[Node] = []
        self._stack = stack
        self._sections = sections

    async def start(self, time: ServerTime | None = None, **sections: Any) -> Node:
        """One more node; ``time`` is its machine's."""
        changed = {**self._sections, **sections}
        persistence = {"database": self.name, "policies": changed.pop("policies", [])}
        plugins = {"tests.support.cluster.SharedPersistence": persistence, **changed.pop("plugins", {})}
        made = settings(plugins=plugins, **changed)
        del made.plugins["persistence"]
        server = Server(made, time)
        await server.start()
        node = Node(server)
        self.nodes.append(node)
        self._stack.push_async_callback(self._stop, node)
        return node

    async def _stop(self, node: Node) -> None:
        await node.close_clients()
        node.storage.faults.thaw()
        async with asyncio.timeout(20):
            await node.server.stop()


@asynccontextmanager
async def cluster(nodes: int = 2, *, lease: float = LEASE, errors: bool = False, **sections: Any) -> AsyncIterator[Cluster]:
    """So many brokers with the `tests.support.broker.settings` given, and ``policies`` of what is kept, stopped at the end. An
    error in the log fails the test unless ``errors``."""
    loud = Loud()
    loggers = [logging.getLogger(name) for name in ("broker", "storage", "plugins", "asyncio")]
    for logger in loggers:
        logger.addHandler(loud)
    made: Cluster | None = None
    try:
        async with AsyncExitStack() as stack:
            made = Cluster(stack, lease, sections)
            for _ in range(nodes):
                await made.start()
            yield made
    finally:
        if made is not None:
            del _databases[made.name]
        for logger in loggers:
            logger.removeHandler(loud)
    if not errors:
        assert loud.lines == []
