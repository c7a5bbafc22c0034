"""A database in memory that several nodes open, in one process and one event loop: for tests, and a reference for MongoDB.

A commit takes effect in the steps in which a real database makes it, so that a test can stop a node between two of them:
`storage.memory.group`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from storage.cluster import DEAD, NUMBER_RESTS_MS, UP, Change, Node, Parcel, Route
from storage.errors import FencedOut
from storage.memory.shared import KEPT_LEASES, SharedStorage
from storage.shared_inboxes import Division

_LANDS_LEASES = 2.5
"""What a node had sent when it was marked dead may take effect for as long."""


class MemoryDatabase:
    """``lease``: see `storage.cluster.Cluster.lease_seconds`. ``now``: the database's clock, ms; a test may replace it."""

    def __init__(self, *, lease: float = 10.0, now: Callable[[], int] | None = None) -> None:
        self.lease = lease
        self.now = now or (lambda: time.time_ns() // 1_000_000)
        self.storage = SharedStorage(self)
        self.nodes: dict[int, Node] = {}
        """Every start of a node that there ever was, by token."""
        self.ended: dict[int, int] = {}
        """When a node that is `GONE` ended in a way after which it may still wake, by token."""
        self.marked: dict[int, int] = {}
        """When a node was marked dead, by token."""
        self.settings: dict[int, dict[str, str]] = {}
        self.routes: list[Route] = []
        self.routes_floor = 0
        """The highest sequence that was removed."""
        self._route_times: list[int] = []
        self.lanes: dict[int, dict[int, list[Parcel]]] = {}
        """By receiver and sender; a receiver that is gone has none."""
        self.arrived: dict[int, asyncio.Event] = {}
        """By receiver: set when its lanes have something."""
        self.leases: dict[str, int] = {}
        self.divided: dict[str, Division] = {}
        self.settings_mark = (0, 0)
        """See `storage.cluster.Cluster.settings_mark`."""

    # --- nodes -----------------------------------------------------------------------------------------------------

    def alive(self, token: int) -> Node:
        """The node; raises `FencedOut` where it was marked dead, or left."""
        node = self.nodes[token]
        if node.state != UP:
            raise FencedOut(f"node {node.number} ({node.name}) was marked dead by another node")
        return node

    def lands(self, token: int) -> None:
        """What a node had sent arrives, also where it was marked dead: for some leases. Raises `FencedOut` after them."""
        node, marked = self.nodes[token], self.marked.get(token)
        if marked is not None and self.now() > marked + int(_LANDS_LEASES * self.lease * 1000):
            raise FencedOut(f"node {node.number} ({node.name}) was marked dead by another node")

    def there(self) -> list[Node]:
        """See `storage.cluster.Cluster.nodes`."""
        return sorted(node for node in self.nodes.values() if node.state in (UP, DEAD))

    def free_number(self) -> int:
        """The lowest that no node has, or had when it was marked dead: its holder may wake for hours."""
        gone = {token for token, ended in self.ended.items() if ended < self.now() - NUMBER_RESTS_MS}
        settled = {self.nodes[token].number for token in self.ended.keys() - gone}
        taken = settled | {node.number for node in self.there()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    # --- routes ----------------------------------------------------------------------------------------------------

    @property
    def routes_end(self) -> int:
        """The sequence of the last entry."""
        return self.routes_floor + len(self.routes)

    def tell(self, writer: int, changes: Sequence[Change]) -> None:
        """Append an entry to the routes."""
        if changes:
            self.routes.append(Route(self.routes_end + 1, writer, tuple(changes)))
            self._route_times.append(self.now())

    def trim_routes(self, before: int) -> int:
        """See `storage.cluster.Cluster.trim_routes`."""
        young = self.now() - int(KEPT_LEASES * self.lease * 1000)
        old = sum(1 for at in self._route_times if at < young)
        applied = min(node.routes for node in self.nodes.values() if node.state == UP)
        count = max(0, min(old, min(before - 1, applied, self.routes_end - 1) - self.routes_floor))
        del self.routes[:count], self._route_times[:count]
        self.routes_floor += count
        return count
