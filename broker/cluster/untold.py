"""What a node stored, and died or fell silent before it told the others: told in its place, to all nodes' clean sessions.

Durable sessions have it in their inboxes. A clean session has nothing but what its node is told, and the publisher may have its
acknowledgement by now, from the node that it sent the message to again. What comes to a node twice, as its own node had told it
after all or another one finishes that node's work too, is delivered once (`broker.delivery.heard`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.cluster.forwarding import Forwards

if TYPE_CHECKING:
    from broker.cluster.cluster import Cluster

_AT_ONCE = 32
"""Messages in memory at a time."""


class Untold:
    """One node's part in it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sent: dict[int, set[int]] = {}
        """By the token of a node that is not settled yet, what was told for it: it is finished more than once."""

    async def tell(self, token: int, untold: Sequence[tuple[int, str]]) -> None:
        """Tell what `storage.cluster.Finished.untold` names of a node. Raises `StorageUnavailable`, and `FencedOut`."""
        there = self._cluster.members.nodes
        self._sent = {known: ids for known, ids in self._sent.items() if known in there}
        sent = self._sent.get(token, set())
        new = [(message_id, topic) for message_id, topic in untold if message_id not in sent]
        if not new:
            return
        await self._cluster.routes.refresh()
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            await self._tell(some)
            sent.update(message_id for message_id, _ in some)
            self._sent[token] = sent

    async def _tell(self, messages: Sequence[tuple[int, str]]) -> None:
        cluster, server = self._cluster, self._cluster.server
        me = cluster.me
        nodes: dict[int, list[int]] = {}
        for message_id, topic in messages:
            listening = [node for node in cluster.routes.nodes_for(topic) if node != me.token]
            if listening or server.trie.match(topic).live:
                nodes[message_id] = listening
        if not nodes:
            return
        read = await server.storage.read_messages(list(nodes))
        forwards = Forwards()
        for message in read:
            for node in nodes[message.id]:
                forwards.parcel(node, len(message.payload)).live.append(message)
        for parcels in forwards.rounds():
            await cluster.mailbox.send(parcels)
        server.delivery.arrived(me.number, (), read, ())
