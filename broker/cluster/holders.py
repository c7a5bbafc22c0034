"""Which node has which device, and so somebody of which user, as the routes say (`broker.cluster.routes`). No I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from broker.sessions import member_of
from storage.records import DeviceKey

SOME_EPOCH = 1
"""Of a device that is stored, where its epoch was not looked up: older than any that is told."""
_NOBODY = (0, 0)


class Holders:
    """See the module. ``remembered``: seconds for which the epoch of a device is known that nobody has any more."""

    def __init__(self, remembered: float) -> None:
        self._holders: dict[str, tuple[int, int]] = {}
        """By device: the node's token, negative where it has it as a clean session that storage does not know, 0 where nobody
        has it any more; and the latest epoch."""
        self._nodes: dict[str, dict[int, int]] = {}
        """By user: how many of the user's devices each node has."""
        self._remembered = remembered
        self._released: deque[tuple[float, str, int]] = deque()

    def nodes_of(self, user: str) -> Iterable[int]:
        """The nodes that have a device of the user, or wait for news of the user's inbox."""
        return self._nodes.get(user, ())

    def holder(self, key: DeviceKey) -> int:
        """The node that has the device; 0 where none has."""
        return abs(self._holders.get(member_of(*key), _NOBODY)[0])

    def is_late(self, key: DeviceKey, epoch: int) -> bool:
        """Whether a change of this epoch comes of a node that has lost the device."""
        return epoch < self._holders.get(member_of(*key), _NOBODY)[1]

    def held(self, key: DeviceKey, node: int, epoch: int) -> None:
        """A node has the device, as of an epoch; 0 for a clean session of which storage has nothing."""
        member = member_of(*key)
        before, known = self._holders.get(member, _NOBODY)
        self._holders[member] = (node if epoch else -node, max(epoch, known))
        self._count(key.user, abs(before), node)

    def released(self, key: DeviceKey, writer: int, epoch: int) -> None:
        """A node has the device no more, or its session has ended.

        A group tells first who has a device, and last who has it no more. So what ends may be older than what is there: a clean
        session ends only what its own node held as one, and a stored session no clean one.
        """
        member = member_of(*key)
        node, known = self._holders.get(member, _NOBODY)
        if node < 0 if epoch else node != -writer:
            return
        self._holders[member] = (0, max(epoch, known))
        self._count(key.user, abs(node), 0)
        self._released.append((time.monotonic(), member, max(epoch, known)))
        self._forget_old()

    def waits(self, user: str, node: int, *, waits: bool) -> None:
        """A node itself waits for news of an inbox, or does no longer."""
        member = f"{user}\0\0{node}"
        before = node if member in self._holders else 0
        if waits:
            self._holders[member] = (node, 0)
        else:
            self._holders.pop(member, None)
        self._count(user, before, node if waits else 0)

    def _count(self, user: str, before: int, after: int) -> None:
        if before == after:
            return
        nodes = self._nodes.setdefault(user, {})
        if after:
            nodes[after] = nodes.get(after, 0) + 1
        if before:
            nodes[before] -= 1
            if not nodes[before]:
                del nodes[before]
        if not nodes:
            del self._nodes[user]

    def _forget_old(self) -> None:
        before = time.monotonic() - self._remembered
        while self._released and self._released[0][0] < before:
            _, member, epoch = self._released.popleft()
            if self._holders.get(member) == (0, epoch):
                del self._holders[member]

    @property
    def nodes(self) -> set[int]:
        """All nodes that have something."""
        return {node for nodes in self._nodes.values() for node in nodes}

    def gone(self, there: set[int]) -> None:
        """Only these nodes are there, of those that are not newer than all of them."""
        newest = max(there, default=0)
        for member, (node, _) in list(self._holders.items()):
            if node and abs(node) not in there and abs(node) <= newest:
                del self._holders[member]
        for user, nodes in list(self._nodes.items()):
            for node in [node for node in nodes.keys() - there if node <= newest]:
                del nodes[node]
            if not nodes:
                del self._nodes[user]
