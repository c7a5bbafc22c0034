"""One node's part in a cluster over a `MemoryDatabase`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy

from storage.cluster import DEAD, GONE, UP, Finished, Node, Parcel, Route
from storage.errors import FencedOut, StorageUnusable
from storage.memory.database import MemoryDatabase
from storage.memory.shared_inboxes import Gate, MemorySharedInboxes
from storage.messages import Append, DeviceKey, Message
from storage.records import CloseSession, Device

_PAGE = 500


class MemoryCluster:
    """A `storage.cluster.Cluster`. Making it joins.

    Raises `StorageUnusable` where a node that is there has other settings.
    """

    def __init__(self, database: MemoryDatabase, gate: Gate, name: str, settings: Mapping[str, str]) -> None:
        self._database = database
        self._gate = gate
        self.rematch: Callable[[Sequence[Append]], Awaitable[None]] | None = None
        self.forwarded = True
        self._handed_out: dict[int, int] = {}
        for other in database.there():
            theirs = database.settings[other.token]
            for name_ in sorted(theirs.keys() & settings.keys()):
                if theirs[name_] != settings[name_]:
                    raise StorageUnusable(
                        f"{name_} is {settings[name_]!r} here and {theirs[name_]!r} on node {other.number}"
                        f" ({other.name}): it must be the same on all nodes"
                    )
        number = database.free_number()
        token = len(database.nodes) + 1
        now = database.now()
        done = database.storage.last_id_of(number)
        self.me = Node(number, token, name or f"memory-{number}", beat=1, seen=now, done=done, started=now)
        database.nodes[token] = self.me
        database.settings[token] = dict(settings)
        database.lanes[token] = {}
        database.arrived[token] = asyncio.Event()
        self.shared_inboxes = MemorySharedInboxes(database, gate, token)

    @property
    def lease_seconds(self) -> float:
        """See `storage.cluster.Cluster`."""
        return self._database.lease

    def _alive(self) -> Node:
        return self._database.alive(self.me.token)

    async def leave(self, done: int, *, settled: bool) -> None:
        """This node's own end. Where its last group is half done, or not told, it is dead, and the others finish that."""
        await self._gate.before("leave")
        node = self._alive()
        if settled and self.forwarded:
            self._gone(node._replace(done=done))
        else:
            self._marked(node)
        await self._gate.after("leave")

    def _marked(self, node: Node) -> None:
        self._database.nodes[node.token] = node._replace(state=DEAD)
        self._database.marked[node.token] = self._database.now()

    def _gone(self, node: Node) -> None:
        database = self._database
        database.nodes[node.token] = node._replace(state=GONE)
        del database.lanes[node.token]
        database.leases = {name: token for name, token in database.leases.items() if token != node.token}

    # --- nodes -----------------------------------------------------------------------------------------------------

    async def beat(self, *, done: int, routes: int, sessions: int) -> Node:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("beat")
        node = self._alive()
        node = node._replace(
            beat=node.beat + 1, seen=self._database.now(), done=max(done, node.done), routes=routes, sessions=sessions
        )
        self._database.nodes[node.token] = node
        await self._gate.after("beat")
        return node

    async def nodes(self) -> list[Node]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("nodes")
        nodes = self._database.there()
        await self._gate.after("nodes")
        return nodes

    async def time(self) -> int:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("time")
        now = self._database.now()
        await self._gate.after("time")
        return now

    async def mark_dead(self, seen: Node) -> bool:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("mark_dead")
        self._alive()
        node = self._database.nodes[seen.token]
        marked = node.state == UP and node.beat == seen.beat
        if marked:
            self._marked(node)
        await self._gate.after("mark_dead")
        return marked

    async def finish(self, token: int) -> Finished:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("finish")
        self._alive()
        node, storage = self._database.nodes[token], self._database.storage
        made = sum([storage.complete(half) for half in storage.unfinished(node.number, node.done)])
        due, untold = storage.stored_since(node.number, node.done)
        await self._gate.after("finish")
        return Finished(made, list(due.items()), untold)

    async def held(self, token: int) -> AsyncIterator[list[DeviceKey]]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("held")
        keys = [device.key async for device in self._database.storage.devices() if device.node == token]
        for start in range(0, len(keys), _PAGE):
            await self._gate.after("held")
            yield keys[start : start + _PAGE]

    async def take(self, key: DeviceKey, holder: int, end: Callable[[Device], CloseSession]) -> Device | None:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("take")
        self._alive()
        device = self._database.storage.take(key, holder, end)
        await self._gate.after("take")
        return device

    async def settle(self, token: int) -> None:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("settle")
        self._alive()
        node = self._database.nodes[token]
        if node.state == DEAD:
            done = max(node.done, self._database.storage.last_id_of(node.number))
            self._gone(node._replace(done=done))
            self._database.ended[token] = self._database.now()
        await self._gate.after("settle")

    async def ask(self, token: int, what: str) -> bool:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("ask")
        node = self._database.nodes.get(token)
        there = node is not None and node.state == UP
        if node is not None and there:
            self._database.nodes[token] = node._replace(asked=what)
        await self._gate.after("ask")
        return there

    async def settings_mark(self) -> tuple[int, int]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("settings_mark")
        mark = self._database.settings_mark
        await self._gate.after("settings_mark")
        return mark

    # --- routes ----------------------------------------------------------------------------------------------------

    async def routes_end(self) -> tuple[int, int]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("routes_end")
        ends = (self._database.routes_floor + 1, self._database.routes_end)
        await self._gate.after("routes_end")
        return ends

    async def routes_after(self, after: int, limit: int = 1000) -> list[Route]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("routes_after")
        self._alive()
        start = after - self._database.routes_floor
        if start < 0:
            raise FencedOut(
                f"changes {after + 1} to {self._database.routes_floor} of the routes are removed: start this node anew"
            )
        found = self._database.routes[start : start + limit]
        await self._gate.after("routes_after")
        return found

    async def trim_routes(self, before: int) -> int:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("trim_routes")
        self._alive()
        count = self._database.trim_routes(before)
        await self._gate.after("trim_routes")
        return count

    # --- lanes -----------------------------------------------------------------------------------------------------

    async def send(self, parcels: Mapping[int, Parcel]) -> None:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("send")
        self._alive()
        for receiver, parcel in parcels.items():
            lanes = self._database.lanes.get(receiver)
            if lanes is not None:
                lanes.setdefault(self.me.token, []).append(_copied(parcel, self.me))
                self._database.arrived[receiver].set()
        await self._gate.after("send")

    async def receive(self, wait: float) -> list[Parcel]:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("receive")
        self._alive()
        lanes = self._database.lanes[self.me.token]
        for sender, count in self._handed_out.items():
            del lanes[sender][:count]
        self._handed_out.clear()
        arrived = self._database.arrived[self.me.token]
        if not any(lanes.values()):
            arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await arrived.wait()
        self._alive()
        parcels = [parcel for sender in lanes for parcel in lanes[sender]]
        counts = {sender: len(lane) for sender, lane in lanes.items()}
        await self._gate.after("receive")
        self._handed_out = counts
        return parcels

    # --- leases ----------------------------------------------------------------------------------------------------

    async def lease(self, name: str) -> bool:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("lease")
        self._alive()
        holder = self._database.leases.get(name, self.me.token)
        free = holder == self.me.token or self._database.nodes[holder].state != UP
        if free:
            self._database.leases[name] = self.me.token
        await self._gate.after("lease")
        return free

    async def release(self, name: str) -> None:
        """See `storage.cluster.Cluster`."""
        await self._gate.before("release")
        self._alive()
        if self._database.leases.get(name) == self.me.token:
            del self._database.leases[name]
        await self._gate.after("release")


def _copied(parcel: Parcel, sender: Node) -> Parcel:
    """A parcel as a database would give it: nothing is shared with the sender, and messages are plain ones."""
    return Parcel(
        [wake._replace(message=_plain(wake.message) if wake.message is not None else None) for wake in parcel.wakes],
        [_plain(message) for message in parcel.live],
        [_plain(message) for message in parcel.transient],
        deepcopy(parcel.notes),
        sender.token,
        sender.number,
    )


def _plain(message: Message) -> Message:
    m = message
    return Message(m.id, m.topic, m.user, m.device, m.time, m.qos, m.payload, m.retain, m.expires, m.properties, m.seq)
