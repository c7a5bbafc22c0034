"""The shared subscriptions of a cluster: who their members are on all nodes, which of them are here, and when they end.

- A group is stored as a device that nobody connects; its filter is in every node's trie for as long as it is.
- Members with a session that lasts are known by the routes, which have their `$share/…` filters. Nodes with a member that is
  connected are known too: each waits for news of the group's inbox (`Interest.watch`), which is how it is woken.
- To join changes nothing of a group that there is, but that its epoch rises, once for each node. So who found that nobody has
  the group, and then deletes it as of the epoch before, does not delete it where somebody has joined meanwhile.
- The last member that unsubscribes ends it, on whichever node. One that nobody has otherwise ends after ``share_expiry``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

from broker.cluster.abandoned_claims import AbandonedClaims
from broker.cluster.shared_group import ClusterSharedGroup
from broker.cluster.shared_group_steps import Close, End, Left, Opened
from broker.delivery import SharedGroups
from broker.packets import parse_share
from broker.pipeline import Operations
from broker.sessions import RELEASED, Timeline, group_inbox, is_group
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable
from storage.records import ANY_EPOCH, NEVER, CloseSession, DeviceKey, OpenSession, Operation, Progress, Subscribe, Subscription

if TYPE_CHECKING:
    from broker.cluster.cluster import Cluster
    from broker.cluster.ports import Node
    from broker.delivery import Machine
    from broker.sessions import Session, Slot

log = logging.getLogger(__name__)

_COUNTS = 10.0
"""Seconds for which it counts that a member has unsubscribed."""
_LOOKS = 1.0
"""Seconds between two looks for groups that nobody has."""


class ClusterSharedGroups(SharedGroups):
    """See the module. `find` and iteration are of those that have members here."""

    def __init__(self, server: Node, cluster: Cluster) -> None:
        super().__init__(server)
        self.server = server
        self.cluster = cluster
        self._offsets: dict[Timeline, int] = {}
        """Of the groups here, as this node stored them last."""
        self._filters: dict[Timeline, str] = {}
        """Of all groups that there are."""
        self._members: dict[Timeline, set[DeviceKey]] = {}
        """The sessions that last, of all nodes."""
        self._unused: dict[Timeline, float] = {}
        """Since when nobody has them, as `time.monotonic`."""
        self.abandoned_claims = AbandonedClaims(cluster, lambda inbox: list(self._members.get(inbox, ())))
        self._abandoned: dict[Timeline, float] = {}
        """Those of which a member has unsubscribed a moment ago, and until when that counts: another node whose members have
        left says so a moment later."""
        self._ending: dict[Timeline, asyncio.Task[object]] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._looking: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look for groups that nobody has."""
        self._looking = asyncio.create_task(self._look(), name="groups that nobody has")

    async def give_back(self, patience: float) -> None:
        """This node ends: what it has claimed, and no device has, is for others."""
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(group.stop() for group in self.here))
        except TimeoutError:
            log.warning("shared subscriptions: storage did not answer, so others wait for what this node had claimed")

    async def stop(self) -> None:
        """Look no longer."""
        await end([*self._tasks, self._looking])
        for group in self.here:
            group.close()

    @property
    def here(self) -> list[ClusterSharedGroup]:
        """The groups that have members here."""
        return [group for group in self if isinstance(group, ClusterSharedGroup)]

    async def loaded(self) -> None:
        """All is known by the filters; members come when they connect."""

    def member_changed(self, key: DeviceKey, filter_: str, *, gone: bool) -> None:
        """A device is a member, or is none any more, wherever it is. Or a group itself is there, or has ended."""
        if is_group(key.user):
            self._is_there(Timeline(key.user), filter_, gone=gone)
        elif (parsed := parse_share(filter_)) is not None:
            inbox = group_inbox(*parsed)
            members = self._members.setdefault(inbox, set())
            (members.discard if gone else members.add)(key)
            if not members:
                del self._members[inbox]
            group = self.by_inbox(inbox)
            if gone and isinstance(group, ClusterSharedGroup):  # what was left for it may be nobody's
                group.changed()
                group.pump()

    def _is_there(self, inbox: Timeline, filter_: str, *, gone: bool) -> None:
        if gone:
            self._filters.pop(inbox, None)
            self._unused.pop(inbox, None)
            self._abandoned.pop(inbox, None)
            self._offsets.pop(inbox, None)
            self.server.trie.remove_aside(filter_, inbox)
        else:
            self._filters[inbox] = filter_
            self.server.trie.add_aside(filter_, inbox)

    # --- who has a group ---------------------------------------------------------------------------------------------------

    def _nodes(self, inbox: Timeline) -> set[int]:
        """The nodes that have members who are connected; this one may be among them, for a moment after."""
        return set(self.cluster.routes.nodes_of(inbox))

    def is_first(self, inbox: Timeline) -> bool:
        """Of the nodes that have members this one is the first."""
        return min(self._nodes(inbox), default=self.cluster.me.token) >= self.cluster.me.token

    def parts(self, inbox: Timeline) -> int:
        """How many nodes have members."""
        return max(1, len(self._nodes(inbox) | {self.cluster.me.token}))

    def has_others(self, group: ClusterSharedGroup) -> bool:
        """There are members that are not connected here, as the routes say."""
        here = {session.key for session in group.machine.members}
        absent = any(key not in here for key in self._members.get(group.inbox, ()))
        return absent or bool(self._nodes(group.inbox) - {self.cluster.me.token})

    def _is_used(self, inbox: Timeline) -> bool:
        group = self.by_inbox(inbox)
        here = group is not None and bool(group.machine.members)
        return here or inbox in self._members or bool(self._nodes(inbox) - {self.cluster.me.token})

    # --- joining and leaving -------------------------------------------------------------------------------------------------

    def join(self, session: Session, subscription: Subscription) -> list[Operation]:
        """Make the session a member of its `$share/…` filter's group, at this place in the order."""
        name, filter_ = parse_share(subscription.filter) or ("", "")
        inbox, operations = group_inbox(name, filter_), list[Operation]()
        group = self.by_inbox(inbox)
        if group is None:
            group = self._groups[inbox] = ClusterSharedGroup(self, inbox, filter_)
            inner = Subscription(filter_, 2, since=-1)
            self.server.trie.add(filter_, group, inner)
            self.server.delivery.open_shared_group(group)
            opening = OpenSession(group.key, self.cluster.time(), False, NEVER, at=self.server.time.wall(), shared=True)
            subscribing = Subscribe(group.key, ANY_EPOCH, [inner])
            operations = [*self.cluster.interest.watch(inbox), opening, subscribing]
            self.server.pipeline.submit(Opened(group, opening, inner))
        group.join(session, subscription)
        return operations

    def came(self, session: Session, machine: Machine) -> None:
        """The session's connection begins."""
        self.cluster.interest.begin_group()  # what was taken back so far is in a group that is built, and stays so
        for filter_ in session.shared_filters:
            operations = self.join(session, session.subscriptions[filter_])
            if operations:
                self.store(operations)
        super().came(session, machine)

    def store(self, operations: list[Operation]) -> None:
        """Store with the next group."""
        self.server.pipeline.submit(Operations(operations))

    def store_offset(self, inbox: Timeline, offset: int) -> None:
        """All up to an entry is done: retention may have it."""
        if offset > self._offsets.get(inbox, -1):
            self._offsets[inbox] = offset
            self.store([Progress(DeviceKey(inbox, ""), ANY_EPOCH, offset, offset, [])])

    def leave(self, session: Session, filter_: str, *, unsubscribed: bool) -> list[Operation]:
        """The session is no member any more. The last one to unsubscribe ends the group."""
        parsed = parse_share(filter_)
        if parsed is None:
            return []
        inbox = group_inbox(*parsed)
        group = self.by_inbox(inbox)
        operations: list[Operation] = []
        if group is not None:
            operations = group.leave(session)
            group.pump()
            self.server.delivery.pump_shared_groups(session)
        else:
            self._settle(inbox, [slot.seq for slot in session.window.pending() if slot.timeline == inbox])
        if unsubscribed:
            self._abandoned[inbox] = time.monotonic() + _COUNTS
            self.server.pipeline.submit(Left(self, inbox))
        return operations

    def finished(self, session: Session, slot: Slot) -> None:
        """A member acknowledged to the end."""
        if self.by_inbox(slot.timeline) is not None:
            super().finished(session, slot)
        elif slot.state is RELEASED:
            self._settle(slot.timeline, [slot.seq])

    def _settle(self, inbox: Timeline, entries: list[int]) -> None:
        """What a session had, without being a member here, is nobody's any more."""
        if entries:
            settle = partial(self.cluster.shared.shared_inboxes.settle, inbox, entries)
            self._run(self.server.delivery.persist(inbox, settle), "settle")

    # --- the end of a group ------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        swept = time.monotonic()
        while True:
            await asyncio.sleep(_LOOKS)
            try:
                self._look_for_unused()
                if time.monotonic() - swept >= self.cluster.members.lease:
                    swept = time.monotonic()
                    await self.abandoned_claims.sweep()
            except StorageUnavailable as error:
                log.debug("what nodes have left behind waits: %s", error)
            except FencedOut:
                return  # the beats say so
            except Exception:  # our bug: groups that nobody has would gather messages for ever
                log.exception("looking for groups that nobody has failed")

    def _look_for_unused(self) -> None:
        now, expiry = time.monotonic(), self.server.settings.mqtt.share_expiry
        for inbox in list(self._filters):
            if self._abandoned.get(inbox, now) < now:
                del self._abandoned[inbox]
            if self._is_used(inbox):
                self._unused.pop(inbox, None)
            elif now - self._unused.setdefault(inbox, now) >= expiry or inbox in self._abandoned:
                self.end(inbox)

    def end(self, inbox: Timeline) -> None:
        """Nobody seems to have a group: end it, if so it is."""
        if inbox not in self._ending:
            task = self._ending[inbox] = self._run(self._end_unused(inbox), f"end {inbox}")
            task.add_done_callback(lambda done: self._ending.pop(inbox, None))

    async def _end_unused(self, inbox: Timeline) -> None:
        device = await self.server.delivery.persist(inbox, partial(self.server.storage.device, DeviceKey(inbox, "")))
        if device is None:
            return
        await self.server.delivery.persist(inbox, self.cluster.routes.refresh)
        group = self.by_inbox(inbox)
        if isinstance(group, ClusterSharedGroup) and not self._is_used(inbox):
            await group.stop()
        since = max((subscription.since for subscription in device.subscriptions.values()), default=0)
        self.server.pipeline.submit(End(self, inbox, device.epoch, since))

    def ended(self, inbox: Timeline, epoch: int) -> list[Operation]:
        """What is to be stored for the end of a group that nobody has, at this place in the order."""
        group = self.by_inbox(inbox)
        if self._is_used(inbox) or (isinstance(group, ClusterSharedGroup) and not group.empty):
            return []
        closing = self.close(group) if isinstance(group, ClusterSharedGroup) else []
        return [CloseSession(DeviceKey(inbox, ""), epoch, True), *closing]

    def close_soon(self, group: ClusterSharedGroup) -> None:
        """Nobody here has a group any more."""
        self.server.pipeline.submit(Close(self, group))

    def close(self, group: ClusterSharedGroup) -> list[Operation]:
        """Nobody here has a group any more, at this place in the order: what tells the other nodes."""
        if not group.empty or self.by_inbox(group.inbox) is not group:
            return []
        del self._groups[group.inbox]
        self.server.trie.remove(group.filter, group)
        self.server.delivery.close_shared_group(group)
        return self.cluster.interest.unwatch(group.inbox)

    def forget(self, inbox: Timeline, since: int) -> None:
        """A group has ended that began there."""
        forget = partial(self.cluster.shared.shared_inboxes.forget, inbox, since)
        self._run(self.server.delivery.persist(inbox, forget), "forget")

    def _run(self, work: Coroutine[object, object, object], name: str) -> asyncio.Task[object]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
