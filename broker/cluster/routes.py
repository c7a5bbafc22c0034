"""The routes, followed: who gets what on all nodes, as far as this node needs to know it. One order of changes for all.

- The trie has the filters of all devices. Those of a device that is in memory here are its session's; of all others a change
  that is read here is applied to who is set aside. To apply a change again is harmless.
- `Routes.holders` says which node has which device. A change of an older epoch than its holder's counts for nothing: it came
  late, of a node that has lost the device.
- `Routes.listeners` are the other nodes by the filters of their clean sessions.
- A start notes the oldest kept change, loads what storage has, then applies all kept changes in order: so it misses none that
  was told before its device was written.

Each look is linearizable: what was acknowledged before it began is in it. Who matches a group looks first (`refresh`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from broker.cluster.holders import SOME_EPOCH, Holders
from broker.packets import SHARE
from broker.routing import Trie
from broker.sessions import is_channel, is_group, member_of
from storage.cluster import ADD, ENDED, HELD, LISTEN, REMOVE, UNLISTEN, UP, Change, Route
from storage.cluster import Cluster as Shared
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable
from storage.records import DeviceKey, Subscription

if TYPE_CHECKING:
    from broker.cluster.ports import Node
    from storage.cluster import Node as Member

log = logging.getLogger(__name__)

_PAGE = 1000
_FASTEST, _SLOWEST = 0.005, 0.1
"""Seconds between two looks at the routes where no group looks."""
_AGAIN = 0.5
_TRIM = "routes"
"""The lease of the node that removes old changes."""
_REMEMBERED = 10
"""Leases for which the epoch of a device is remembered that nobody has any more."""

Taken = Callable[[DeviceKey, int, int], None]
"""Called with the device, the epoch (0 for a clean session) and the node that has it now, where it is in memory here."""


class Listener:
    """Another node, as one that is to be told of what its clean sessions want."""

    __slots__ = ("token",)
    inbox = ""

    def __init__(self, token: int) -> None:
        self.token = token


class Routes:
    """One node's following. ``taken`` is set by who takes devices over."""

    def __init__(self, server: Node, shared: Shared) -> None:
        self._server = server
        self._shared = shared
        self._me = shared.me.token
        self.position = 0
        """The sequence of the last change that was applied."""
        self.holders = Holders(_REMEMBERED * shared.lease_seconds)
        self.listeners: Trie[Listener] = Trie()
        self.taken: Taken | None = None
        self.unknown: set[int] = set()
        """Nodes that have not said yet what their clean sessions want: they count as wanting everything."""
        self._there: set[int] = set()
        self._listeners: dict[int, Listener] = {}
        self._wanted: dict[int, set[str]] = {}
        """What each other node listens to."""
        self._lock = asyncio.Lock()
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------------

    async def before_loading(self) -> None:
        """Note where the routes begin; devices and their filters are loaded next."""
        oldest, _ = await self._shared.routes_end()
        self.position = oldest - 1

    async def load(self) -> None:
        """All filters are loaded: see who has which device, and apply what was told since."""
        nodes = await self._shared.nodes()
        for node in nodes:
            async for page in self._shared.held(node.token):
                for key in page:
                    self.holders.held(key, node.token, SOME_EPOCH)
        await self.refresh()
        there = {node.token for node in await self._shared.nodes()}
        self._there = self.holders.nodes | self._wanted.keys() | there
        self.only(there)

    def start(self) -> None:
        """Follow."""
        self._task = asyncio.create_task(self._follow(), name="routes")

    async def stop(self) -> None:
        """Follow no longer."""
        await end([self._task])

    def only(self, there: set[int]) -> None:
        """Forget nodes that are gone, and what they had."""
        before, self._there = self._there, there
        if before <= there:
            return  # the rest takes time for each device of the cluster
        self.holders.gone(there)
        newest = max(there, default=0)
        for token in [token for token in self._wanted.keys() - there if token <= newest]:
            for filter_ in list(self._wanted[token]):
                self._unlisten(token, filter_)

    async def trim(self, nodes: Iterable[Member]) -> None:
        """Remove what all nodes that are up have applied; one node does. Raises `StorageUnavailable`, and `FencedOut`."""
        applied = min((node.routes for node in nodes if node.state == UP), default=0)
        if applied and await self._shared.lease(_TRIM):
            await self._shared.trim_routes(applied + 1)

    # --- looking -------------------------------------------------------------------------------------------------------

    async def refresh(self) -> int:
        """Apply what was told; how many changes that were. Raises `StorageUnavailable`, and `FencedOut` where some are removed
        already."""
        count = 0
        async with self._lock:
            self._looked = time.monotonic()
            while True:
                routes = await self._shared.routes_after(self.position, _PAGE)
                for route in routes:
                    self._apply(route)
                count += len(routes)
                if len(routes) < _PAGE:
                    return count

    async def _follow(self) -> None:
        wait = _FASTEST
        while True:
            await asyncio.sleep(wait)
            if time.monotonic() - self._looked < wait:
                continue  # a group has looked
            try:
                wait = _FASTEST if await self.refresh() else min(_SLOWEST, wait * 1.5)
            except StorageUnavailable as error:
                log.debug("the routes cannot be followed now: %s", error)
                wait = _AGAIN
            except FencedOut as error:
                self._server.fenced(str(error))
                return
            except Exception:  # our bug: groups look too, but who is idle would never look again
                log.exception("following the routes failed")
                wait = _AGAIN

    # --- applying ------------------------------------------------------------------------------------------------------

    def _apply(self, route: Route) -> None:
        for change in route.changes:
            try:
                self._change(route.writer, change)
            except Exception:  # our bug: it must not keep this node from all that follows
                log.exception("a change of the routes failed: %s", change)
        self.position = route.seq

    def _change(self, writer: int, change: Change) -> None:
        kind = change.kind
        if kind == LISTEN:
            self.listen(change.node, change.filter)
        elif kind == UNLISTEN:
            self._unlisten(change.node, change.filter)
        elif kind == HELD and not change.client_id:
            if not change.epoch:  # else it is the group of a shared subscription, which somebody joined again: no node has it
                self.holders.waits(change.user, writer, waits=bool(change.node))
        else:
            self._change_device(writer, change, DeviceKey(change.user, change.client_id))

    def _change_device(self, writer: int, change: Change, key: DeviceKey) -> None:
        if change.epoch and self.holders.is_late(key, change.epoch):
            return
        kind, server = change.kind, self._server
        if writer != self._me and kind != HELD:
            server.sessions.forget(key)  # what is known of it here is older
        if kind == HELD and change.node:
            self._held(key, change)
        elif kind in (HELD, ENDED):
            self.holders.released(key, writer, change.epoch)
            session = server.sessions.get(key)
            if writer != self._me and session is not None and session.kept and session.epoch < change.epoch and self.taken:
                self.taken(key, change.epoch, writer)  # from this node, which was silent, and has already let it go
        elif is_channel(key.user):
            pass  # the device itself has the filter as well
        elif change.filter.startswith(SHARE) or is_group(key.user):
            server.shared_groups.member_changed(key, change.filter, gone=kind == REMOVE)
        else:
            self._change_aside(change, key, writer)

    def _change_aside(self, change: Change, key: DeviceKey, writer: int) -> None:
        """A filter of a device that nobody is connected to here. Its session may be in use all the same, as by the API, and so
        not be forgotten: what it does not know of itself is kept beside it. So is what another node had stored of a session
        that is being opened here, until storage says which of the two there is; and what one has stored of a session with the
        epoch that it was opened with here, as it is that one which has it: to read it once storage says so would be late for
        the messages that are matched meanwhile."""
        session, member = self._server.sessions.get(key), member_of(*key)
        if session is not None and session.connection is not None:
            lost = writer != self._me and change.epoch >= session.epoch
            opened = change.kind == ADD and not session.unopened and not lost
            if opened or change.filter in session.subscriptions:
                return
        if change.kind == REMOVE:
            self._server.trie.remove_aside(change.filter, member)
        elif change.kind == ADD and (session is None or change.filter not in session.subscriptions):
            self._server.trie.add_aside(change.filter, member)

    def _held(self, key: DeviceKey, change: Change) -> None:
        node, had = change.node, self.holders.holder(key) == self._me
        self.holders.held(key, node, change.epoch)
        session = self._server.sessions.get(key)
        if node == self._me or session is None or self.taken is None:
            return
        # Where one of the two is nowhere but in the routes, their order decides: what this one tells later takes it back.
        if had or (change.epoch and session.kept):
            self.taken(key, change.epoch, node)

    def nodes_of(self, user: str) -> Iterable[int]:
        """The nodes that have a device of the user, or wait for news of the user's inbox; this one may be among them."""
        return self.holders.nodes_of(user)

    def nodes_for(self, topic: str) -> Iterable[int]:
        """The other nodes whose clean sessions want the topic."""
        found = [listener.token for listener in self.listeners.match(topic).live]
        return self.unknown.union(found) if self.unknown else found

    def listen(self, token: int, filter_: str) -> None:
        """A node wants what a filter matches."""
        if token == self._me:
            return
        wanted = self._wanted.setdefault(token, set())
        if filter_ not in wanted:
            wanted.add(filter_)
            self.listeners.add(filter_, self._listeners.setdefault(token, Listener(token)), Subscription(filter_, 0))

    def _unlisten(self, token: int, filter_: str) -> None:
        wanted = self._wanted.get(token)
        if wanted is None or filter_ not in wanted:
            return
        wanted.discard(filter_)
        self.listeners.remove(filter_, self._listeners[token])
        if not wanted:
            del self._wanted[token], self._listeners[token]
