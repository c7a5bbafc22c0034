"""What is to be done after a node: its half-done groups, its devices' wills and deadlines, its lanes.

Whoever marked a node dead does it, or who finds it dead and not settled: the lease ``burial/<token>`` says who. That node may
die too; the lease is free then, and the next one does all of it again, which changes nothing that is done already.

1. `Cluster.finish`; wake whoever is due something by it, and tell the clean sessions of all nodes (`broker.cluster.untold`).
2. Take each device that the node has, an epoch later: it counts as disconnected now. One that is back elsewhere is left alone.
   Its will and its end follow as after any disconnect, by whoever watches the deadlines.
3. What it had claimed of shared subscriptions is free again, but for QoS 2 that was sent to a device.
4. Some leases later all of it again, as what the node had sent to the database may have landed since. Then `Cluster.settle`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from storage.cluster import Node
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable

if TYPE_CHECKING:
    from broker.cluster.cluster import Cluster

log = logging.getLogger(__name__)

LATER = 3
"""Leases after which nothing that a dead node had sent is on its way any more."""


class Failover:
    """The failovers that this node carries out. ``later`` is in seconds: see `LATER`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.later = LATER * cluster.shared.lease_seconds
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def found(self, node: Node) -> None:
        """A node is dead and not settled."""
        if node.token not in self._tasks:
            task = self._tasks[node.token] = asyncio.create_task(self._take_over(node), name=f"failover of node {node.token}")
            task.add_done_callback(lambda done: self._tasks.pop(node.token, None))

    async def stop(self) -> None:
        """Leave what is not done to the others."""
        await end(list(self._tasks.values()))

    async def _take_over(self, node: Node) -> None:
        """Raises nothing: what fails is found again with the next beat."""
        shared = self._cluster.shared
        try:
            if not await shared.lease(f"burial/{node.token}"):
                return
            devices = await self._settle_devices(node.token)
            log.warning("node %d (%s) is dead: %d of its devices count as disconnected", node.number, node.name, devices)
            await asyncio.sleep(self.later)
            if await shared.lease(f"burial/{node.token}"):
                await self._settle_devices(node.token)
                await shared.settle(node.token)
                log.info("all is done for node %d (%s)", node.number, node.name)
        except (StorageUnavailable, FencedOut) as error:
            log.warning("node %d (%s) is not taken over yet: %s", node.number, node.name, error)
        except Exception:  # our bug: it is tried again, and must be told
            log.exception("failover of node %d (%s) failed", node.number, node.name)

    async def _settle_devices(self, token: int) -> int:
        """1 to 3; how many devices there were."""
        takeover = self._cluster.takeover
        await takeover.finish(token)
        count = 0
        async for page in self._cluster.shared.held(token):
            count += len(await takeover.seize(token, page))
        await self._cluster.groups.abandoned_claims.release_of(token)
        return count
