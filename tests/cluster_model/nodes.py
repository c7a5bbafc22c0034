"""Real nodes over one database in memory, each a process that can be stopped or killed at any call that it makes of storage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any

from broker.clock import ServerTime
from broker.config import Settings
from broker.connection import Connection
from broker.server import Server
from plugins.persistence import PersistencePlugin
from storage.errors import StorageError
from storage.interface import Storage
from storage.memory import Faults, MemoryDatabase, MemoryNode
from tests.cluster_model.history import History, Trouble
from tests.cluster_model.virtual import START, Process, VirtualLoop, running
from tests.cluster_model.wire import BrokerEnd

LEASE = 2.0
_OBEDIENT = "tests.support.auth_plugins.Obedient"
_ANYBODY = "tests.support.auth_plugins.Anybody"
_SHARED = "tests.cluster_model.nodes.ModelPersistence"
_STORAGES: dict[str, Storage] = {}
"""What a node that starts is to use, by its name."""


class ModelPersistence(PersistencePlugin):
    """Stores where the model says."""

    @dataclass
    class Config(PersistencePlugin.Config):
        url: str = "memory://"
        node: str = ""

    config: Config

    def storage(self) -> Storage:
        return _STORAGES[self.config.node]


@dataclass(frozen=True)
class Trap:
    """At a call of storage whose name begins so, before or after its effect, and ``skip`` others of them before it. ``fault``
    is ``stall`` (storage hangs), ``stop`` (the process stops), ``kill``, ``lose`` (the answer is lost), or ``pause`` (this call
    alone takes long). ``seconds``: how long; 0 is until somebody mends it."""

    call: str
    after: bool
    fault: str
    skip: int = 0
    seconds: float = 0.0


Latency = tuple[str, float, float]
"""Calls of storage whose names begin so take these seconds before and after their effect."""


class ModelFaults(Faults):
    """Each call takes a moment, or none, or as long as its `Latency` says; a `Trap` may wait for it."""

    def __init__(self, random: Random, latencies: Sequence[Latency], spring: Callable[[Trap], None]) -> None:
        super().__init__()
        self.trap: Trap | None = None
        self._skip = 0
        self._latencies = latencies
        self._random = random
        self._spring = spring

    def arm(self, trap: Trap | None) -> None:
        """Wait for a call; None: no longer."""
        self.trap, self._skip = trap, trap.skip if trap is not None else 0

    async def before(self, call: str) -> None:
        await self._step(call, after=False)
        await super().before(call)

    async def after(self, call: str) -> None:
        await self._step(call, after=True)
        await super().after(call)

    async def _step(self, call: str, *, after: bool) -> None:
        trap = self.trap
        if trap is not None and trap.after == after and call.startswith(trap.call):
            self._skip -= 1
            if self._skip < 0:
                self.trap = None
                self._spring(trap)
                pause = trap.seconds if trap.fault == "pause" else 0.0
                await asyncio.sleep(pause)  # not a wait: a process that was stopped here goes no further
        for name, before_, after_ in self._latencies:
            if call.startswith(name):
                await asyncio.sleep(after_ if after else before_)  # not a wait: the time is virtual
        wait = self._random.random()
        if wait > 0.6:
            await asyncio.sleep(0.0 if wait < 0.8 else (wait - 0.8) / 20)  # not a wait: the way to the database and back


class Node:
    """One start of a node."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        database: MemoryDatabase,
        random: Random,
        history: History,
        skew: float,
        latencies: Sequence[Latency] = (),
    ) -> None:
        self.name = name
        self.process = Process(name, loop)
        self.faults = ModelFaults(random, latencies, self._sprung)
        self._then: Callable[[], None] | None = None
        self.up = False
        """Clients can connect."""
        self.dead = False
        """Killed, or ended."""
        self.why = ""
        self._loop = loop
        self._history = history
        self._ends: list[BrokerEnd] = []
        self._told = asyncio.Event()
        self._trouble: Trouble | None = None
        storage = MemoryNode(database, name)
        storage.faults = self.faults
        _STORAGES[name] = storage
        self.storage = storage
        settings = Settings.model_validate(
            {"plugins": {_SHARED: {"node": name}, "sync": {}, _OBEDIENT: {}, _ANYBODY: {}}, "mqtt": {"storage_timeout": 0}}
        ).model_copy(update={"listeners": []})
        settings.plugins.pop("persistence", None)
        clocks = ServerTime(lambda: START + skew + loop.time(), loop.time)
        self.server: Server = self.process.context.run(Server, settings, clocks)
        self._life = self.process.run(self._live())
        self._life.add_done_callback(self._lived)

    async def _live(self) -> None:
        """As `broker.cli.serve` does it."""
        server = self.server
        try:
            await server.start()
            self.up = True
            ends = [self.process.run(server.serve_forever()), self.process.run(self._told.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self.up = False
        except StorageError as error:
            server.failure = str(error)
        self.why = server.failure
        await server.stop()
        self._end()

    def _lived(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and life.exception() is not None:
            self._history.failures.append(f"{self.name} broke down: {life.exception()!r}")
            self._end()

    def _end(self) -> None:
        """The process is no more."""
        self.up = False
        self.dead = True
        self.process.stopped = True
        for end in self._ends:
            end.cut()

    # --- clients -----------------------------------------------------------------------------------------------------------

    def dial(self, deliver: Callable[[bytes | None], None]) -> BrokerEnd:
        """A client connects."""
        end = BrokerEnd(self._loop, self.process, deliver)
        self._ends.append(end)
        if self.dead:
            end.cut()
        else:
            end.serve(lambda: Connection(self.server, "tcp", f"192.0.2.1:{len(self._ends)}"))
        return end

    # --- faults ------------------------------------------------------------------------------------------------------------

    def arm(self, trap: Trap, then: Callable[[], None] | None = None) -> None:
        """Set a trap; ``then`` is called when it springs."""
        self.faults.arm(trap)
        self._then = then

    def _sprung(self, trap: Trap) -> None:
        then, self._then = self._then, None
        if then is not None:
            self._loop.call_soon(then, context=Context())
        if trap.seconds:
            self._loop.call_later(trap.seconds, self.recover, context=Context())
        if trap.fault == "pause":
            self._in_trouble()
        elif trap.fault == "stall":
            self.stall(after=trap.after)
        elif trap.fault == "stop":
            self.stop()
        elif trap.fault == "kill":
            self.kill()
        else:
            self.faults.lose_answers = True
            self._loop.call_later(0.01, self._find_answers)

    def _find_answers(self) -> None:
        self.faults.lose_answers = False

    def _in_trouble(self) -> None:
        if self._trouble is None:
            self._trouble = Trouble(self.name, self._loop.time())
            self._history.troubles.append(self._trouble)

    def stall(self, *, after: bool) -> None:
        """The database does not answer."""
        self._in_trouble()
        self.faults.freeze(after=after)

    def away(self) -> None:
        """The database is away."""
        self._in_trouble()
        self.faults.away = True

    def stop(self) -> None:
        """SIGSTOP."""
        self._in_trouble()
        self.process.stopped = True

    def recover(self) -> None:
        """Whatever held it up is over."""
        self.faults.arm(None)
        self.faults.away = self.faults.lose_answers = False
        self.faults.thaw()
        if self._trouble is not None:
            self._trouble.end = self._loop.time()
            self._trouble = None
        if not self.dead and self.process.stopped:
            self.process.go_on()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, its connections are reset."""
        if not self.dead:
            self._in_trouble()
            self._end()

    def terminate(self) -> None:
        """SIGTERM."""
        self._history.troubles.append(Trouble(self.name, self._loop.time(), told=True))
        self.process.soon(self._told.set)

    def leave(self) -> None:
        """An operator asks it to leave."""
        self._history.troubles.append(Trouble(self.name, self._loop.time(), told=True))
        cluster, database = self.storage.cluster, self.storage.database
        if cluster is not None:
            node = database.nodes[cluster.me.token]
            database.nodes[node.token] = node._replace(asked="leave")

    def end_of_all(self) -> None:
        """The play is over: whatever is under way is left, and unwinds where nobody sees it."""
        _STORAGES.pop(self.name, None)
        self.faults.away = True
        self.faults.thaw()
        for task in list(self.process.tasks):
            task.cancel()
        self.process.go_on()


class Faultfinder(logging.Handler):
    """Notes what a node logs as a fault of its own: an error with an exception that is not storage's."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.ERROR)
        self._history = history
        self.on = True

    def emit(self, record: logging.LogRecord) -> None:
        process = running()
        if not self.on or not record.exc_info or (process is not None and process.stopped):
            return
        error: Any = record.exc_info[1]
        self._history.failures.append(f"{process.name if process else 'somebody'} logged: {record.getMessage()}: {error!r}")
