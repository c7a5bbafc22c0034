"""How a node leaves a cluster by an operator's wish: no client comes any more, those that are there are sent elsewhere, and
once they have gone the node ends, as it does when it is told to stop.

They are sent away little by little, so that the other nodes are not asked for all of their devices at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from storage.ending import end

if TYPE_CHECKING:
    from broker.cluster.ports import Node

log = logging.getLogger(__name__)

_AT_ONCE = 100
_PAUSE = 0.05
"""Seconds between two hundreds of clients."""


class Leaving:
    """The leaving of one node."""

    def __init__(self, server: Node) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether this node is leaving."""
        return self._task is not None

    def begin(self) -> None:
        """Leave. Asked again it changes nothing."""
        if self._task is None:
            log.warning("this node leaves the cluster: its clients are told to use another server, then it ends")
            self._task = asyncio.create_task(self._leave(), name="leaving")

    async def stop(self) -> None:
        """The node ends already."""
        await end([self._task])

    async def _leave(self) -> None:
        server = self._server
        server.stop_accepting()
        deadline = asyncio.get_running_loop().time() + server.settings.mqtt.shutdown_grace
        while server.connections and asyncio.get_running_loop().time() < deadline:
            there = [connection for connection in server.connections if not connection.closed]
            for connection in there[:_AT_ONCE]:
                server.send_elsewhere(connection)
            if there:
                deadline = asyncio.get_running_loop().time() + server.settings.mqtt.shutdown_grace
            await asyncio.sleep(_PAUSE)
        server.end()
