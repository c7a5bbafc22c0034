"""Who is there, and who is no more. No I/O: `broker.cluster.heartbeats` asks the database.

- No clocks are compared. A node that shows no new beat for the patience of a lease is dead; only time in which this node's
  own beats succeeded counts, so that an outage of the database kills nobody, nor does a freeze of this node.
- Silent is less than dead: a node that does not answer is *suspected*, once for all of its devices, until its next beat.
- A node that marks another dead says which beat it saw (`storage.cluster.Cluster.mark_dead`): one that beat since lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage.cluster import DEAD, UP, Node

BEATS = 8
"""In the time of a lease."""


@dataclass(slots=True)
class _Sighting:
    beat: int
    lived: float
    """When it was first seen, in `Membership.lived`."""


class Membership:
    """What one node has seen of the others. ``lease`` is in seconds."""

    def __init__(self, me: Node, lease: float) -> None:
        self._me = me
        self.lease = lease
        self.period = lease / BEATS
        """Seconds from one beat to the next."""
        self.nodes: dict[int, Node] = {}
        """By token, as last seen: up, or dead and not settled. This node is among them."""
        self.lived = 0.0
        """Seconds in which this node's own beats succeeded."""
        self._last = -1.0
        """When the last beat was sent; below 0 where that failed."""
        self._seen: dict[int, _Sighting] = {}
        self._suspected: dict[int, int] = {}
        """By token, the beat that was seen last when it did not answer."""

    # --- beats -----------------------------------------------------------------------------------------------------

    def failed(self) -> None:
        """This node's own beat, or its look at the others, failed: no time counts until the next one that succeeds."""
        self._last = -1.0

    def beat(self, sent: float, nodes: Iterable[Node]) -> list[Node]:
        """This node's beat, sent at that moment of a clock that never steps, succeeded, and then these nodes were there.

        Gives those to be marked dead. A pause that is longer than twice the period was this node's own.
        """
        if self._last >= 0:
            self.lived += min(sent - self._last, 2 * self.period)
        self._last = sent
        self.nodes = {node.token: node for node in nodes}
        self._seen = {token: seen for token, seen in self._seen.items() if token in self.nodes}
        self._suspected = {
            token: beat for token, beat in self._suspected.items() if token in self.nodes and self.nodes[token].beat == beat
        }
        return [node for node in self.nodes.values() if node.state == UP and self._is_silent(node)]

    def _is_silent(self, node: Node) -> bool:
        if node.token == self._me.token:
            return False
        seen = self._seen.get(node.token)
        if seen is None or seen.beat != node.beat:
            self._seen[node.token] = _Sighting(node.beat, self.lived)
            return False
        return self.lived - seen.lived >= self.lease

    def died(self, node: Node) -> None:
        """It was marked dead."""
        self.nodes[node.token] = node._replace(state=DEAD)

    # --- asking ----------------------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds that a node has for an answer before it is suspected."""
        return min(2.0, self.lease / 5)

    def named(self, token: int) -> str:
        """A node as people know it: its number and name."""
        node = self.nodes.get(token)
        return f"with token {token}" if node is None else f"{node.number} ({node.name})"

    def answers(self, token: int) -> bool:
        """Whether it makes sense to ask a node: it is up as far as is known, and not suspected.

        Tokens rise, so one that is higher than all that are known came a moment ago; any other that is not known has gone.
        """
        if token in self._suspected:
            return False
        node = self.nodes.get(token)
        return token > max(self.nodes, default=0) if node is None else node.state == UP

    def suspect(self, token: int) -> None:
        """A node did not answer in time: nobody asks it again before its next beat."""
        node = self.nodes.get(token)
        self._suspected[token] = node.beat if node is not None else 0
