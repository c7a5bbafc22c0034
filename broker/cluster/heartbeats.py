"""This node's beats, and its looks at the others'. What they mean is decided in `broker.cluster.membership`.

Eight times in a lease: say that this node lives and how far it is, see who else does, follow the database's clock. Whoever is
found silent for a lease is marked dead; the nodes left take over from who is dead and not settled (`broker.cluster.failover`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from broker.cluster.membership import Membership
from storage.cluster import DEAD, Node
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable

if TYPE_CHECKING:
    from broker.clock import ServerTime
    from storage.cluster import Cluster as Shared

log = logging.getLogger(__name__)

TRUSTED = 0.8
"""The part of a lease for which a beat shows that this node serves."""
LEAVE = "leave"
"""What an operator asks of a node (`storage.cluster.Node.asked`)."""


class Report(NamedTuple):
    """What is told with a beat: see `storage.cluster.Node`."""

    done: int
    routes: int
    sessions: int


class Heartbeats:
    """The task that beats.

    ``there`` is called with the tokens of all that are not gone, ``found`` with each node that is dead and not settled, both
    with every beat; ``leave`` when an operator asked for that; ``fenced`` where this node was marked dead itself.
    """

    def __init__(
        self,
        shared: Shared,
        clock: ServerTime,
        *,
        report: Callable[[], Report],
        there: Callable[[set[int]], None],
        found: Callable[[Node], None],
        leave: Callable[[], None],
        fenced: Callable[[str], None],
    ) -> None:
        self.members = Membership(shared.me, shared.lease_seconds)
        self._shared = shared
        self._clock = clock
        self._report = report
        self._there = there
        self._found = found
        self._leave = leave
        self._fenced = fenced
        self._succeeded = self._looked = time.monotonic()
        self._database_time = 0
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Before anything is loaded: count time as the database does, and see who is there."""
        self._clock.start_at(await self._look_at_clock())
        self.members.beat(time.monotonic(), await self._shared.nodes())

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.create_task(self._run(), name="beats")

    async def stop(self) -> None:
        """Beat no longer."""
        await end([self._task])

    @property
    def alive(self) -> bool:
        """Whether the last beat is new enough for the others to know that this node lives."""
        return time.monotonic() - self._succeeded < self.members.lease * TRUSTED

    def time(self) -> int:
        """What the database's clock shows, ms."""
        return int(self._database_time + (time.monotonic() - self._looked) * 1000)

    async def _look_at_clock(self) -> int:
        shown = await self._shared.time()
        self._database_time, self._looked = shown, time.monotonic()
        return shown

    async def _run(self) -> None:
        while True:
            try:
                await self._beat()
            except StorageUnavailable as error:
                log.log(
                    logging.DEBUG if self._failing else logging.WARNING, "the other nodes do not hear of this one: %s", error
                )
                self._failing = True
                self.members.failed()
            except FencedOut as error:
                self._fenced(str(error))
                return
            except Exception:  # our bug: a node that stopped to look at the others would take over from nobody
                self.members.failed()
                log.exception("a beat failed")
            else:
                self._failing = False
            await asyncio.sleep(self.members.period)

    async def _beat(self) -> None:
        sent = time.monotonic()
        report = self._report()
        me = await self._shared.beat(done=report.done, routes=report.routes, sessions=report.sessions)
        nodes = await self._shared.nodes()
        self._clock.follow(await self._look_at_clock())
        self._succeeded = sent
        self._there({node.token for node in nodes})
        for node in self.members.beat(sent, nodes):
            if await self._shared.mark_dead(node):
                log.warning("node %d (%s) is dead: no beat of it was seen for %g s", node.number, node.name, self.members.lease)
                self.members.died(node)
        for node in self.members.nodes.values():
            if node.state == DEAD:
                self._found(node)
        if me.asked == LEAVE:
            self._leave()
