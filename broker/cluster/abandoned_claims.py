"""What nodes leave behind of the shared subscriptions: what they had claimed is free, but for what a device has at QoS 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.sessions import Timeline
from storage.cluster import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.cluster.cluster import Cluster
    from storage.records import DeviceKey

_SWEEP = "groups"
"""The lease of the node that sweeps."""


class AbandonedClaims:
    """``members``: the devices of a group."""

    def __init__(self, cluster: Cluster, members: Callable[[Timeline], Iterable[DeviceKey]]) -> None:
        self.cluster = cluster
        self._members = members

    async def release_of(self, token: int) -> None:
        """A node is dead, and its devices are taken: others may have what it had claimed, but for QoS 2 that was sent.

        Raises `StorageError`.
        """
        await self.cluster.routes.refresh()
        for inbox, division in await self.cluster.shared.shared_inboxes.divided():
            if token in division.claimed:
                await self._release(Timeline(inbox), token)
            if token in division.claimed or division.free:
                await self.cluster.wake([Wake(inbox, 0, None)])

    async def _release(self, inbox: Timeline, token: int) -> None:
        held: list[int] = []
        done: list[int] = []
        for key in list(self._members(inbox)):
            device = await self.cluster.server.storage.device(key)
            for entry in device.inflight if device is not None else ():
                if entry.timeline == inbox:
                    (held if entry.packet_id else done).append(entry.seq)
        await self.cluster.shared.shared_inboxes.release(inbox, token, held, done)

    async def sweep(self) -> None:
        """A node that left in order may have had something all the same, where storage did not answer."""
        nodes = self.cluster.members.nodes
        if await self.cluster.may(_SWEEP):
            for _, division in await self.cluster.shared.shared_inboxes.divided():
                for token in division.claimed.keys() - nodes.keys():
                    if token < max(nodes):
                        await self.release_of(token)
