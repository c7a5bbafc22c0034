"""All shared subscription groups of the node: which there are, who joins and leaves them, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.delivery.shared_group import SharedGroup
from broker.packets import parse_share
from broker.pipeline import Operations, Step
from broker.sessions import Timeline, group_inbox
from storage.records import (
    NEVER,
    CloseSession,
    Device,
    DeviceKey,
    OpenSession,
    Operation,
    Subscribe,
    Subscription,
)

if TYPE_CHECKING:
    from broker.delivery.machine import Machine
    from broker.delivery.ports import Node
    from broker.sessions import Session, Slot


class SharedGroups:
    """All groups, by inbox key."""

    def __init__(self, server: Node) -> None:
        self._server = server
        self._groups: dict[str, SharedGroup] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[SharedGroup]:
        return iter(self._groups.values())

    def load(self, device: Device) -> None:
        """Take a stored group up again."""
        for filter_, subscription in device.subscriptions.items():
            group = self._make(Timeline(device.key.user), filter_)
            group.machine.restore(device)
            self._server.trie.add(filter_, group, subscription)

    async def loaded(self) -> None:
        """All sessions are loaded too: find out what the members have, and where the inboxes end."""
        for session in self._server.sessions:
            for filter_ in session.shared_filters:
                operations = self.join(session, session.subscriptions[filter_])
                if operations:
                    self._server.pipeline.submit(Operations(operations))
        for group in self._groups.values():
            group.machine.reconcile()
            self._server.delivery.open_shared_group(group)
            group.open(group.machine.cursor, await self._server.storage.inbox_head(group.inbox))
            if not group.machine.members:
                self._expire_later(group)

    def _make(self, inbox: Timeline, filter_: str) -> SharedGroup:
        group = self._groups[inbox] = SharedGroup(self._server, inbox, filter_)
        return group

    def join(self, session: Session, subscription: Subscription) -> list[Operation]:
        """Make the session a member of its `$share/…` filter's group, at this place in the order."""
        name, filter_ = parse_share(subscription.filter) or ("", "")
        inbox = group_inbox(name, filter_)
        group = self._groups.get(inbox)
        operations: list[Operation] = []
        if group is None:
            group = self._make(inbox, filter_)
            inner = Subscription(filter_, 2, since=-1)
            self._server.trie.add(filter_, group, inner)
            opening = OpenSession(group.key, 0, True, NEVER, at=self._server.time.wall())
            operations = [opening, Subscribe(group.key, 0, [inner])]
            self._server.delivery.open_shared_group(group)
            self._server.pipeline.submit(OpenSharedGroup(group, opening))
        group.join(session, subscription)
        return operations

    def find(self, filter_: str) -> SharedGroup | None:
        """The group of a `$share/…` filter."""
        parsed = parse_share(filter_)
        return self._groups.get(group_inbox(*parsed)) if parsed else None

    def by_inbox(self, inbox: str) -> SharedGroup | None:
        """The group with this inbox key."""
        return self._groups.get(inbox)

    def leave(self, session: Session, filter_: str, *, unsubscribed: bool) -> list[Operation]:
        """The session is no member any more. The last one to unsubscribe ends the group."""
        group = self.find(filter_)
        if group is None:
            return []
        operations = group.leave(session)
        if not group.machine.members and unsubscribed:
            operations += self._end(group)
        elif not group.machine.members:
            self._expire_later(group)
        group.pump()
        self._server.delivery.pump_shared_groups(session)  # what this group takes back makes room for its others
        return operations

    def _expire_later(self, group: SharedGroup) -> None:
        group.no_timer()
        group.timer = self._server.clock.after(self._server.settings.mqtt.share_expiry, lambda: self._expire(group))

    def _expire(self, group: SharedGroup) -> None:
        if not group.machine.members and self._groups.get(group.inbox) is group:
            self._server.pipeline.submit(EndSharedGroup(self, group))

    def _end(self, group: SharedGroup) -> list[Operation]:
        del self._groups[group.inbox]
        self._server.trie.remove(group.filter, group)
        self._server.delivery.close_shared_group(group)
        return [CloseSession(group.key, 0, True)]

    def end_if_empty(self, group: SharedGroup) -> list[Operation]:
        """End a group that nobody came back to."""
        return [] if group.machine.members or self._groups.get(group.inbox) is not group else self._end(group)

    def came(self, session: Session, machine: Machine) -> None:
        """The session's connection begins."""
        for filter_ in session.shared_filters:
            group = self.find(filter_)
            if group is not None:
                group.came(session, machine)

    def detach(self, session: Session, *, lost: bool) -> None:
        """The session's connection ended; ``lost``: as the device has connected through another node."""
        for filter_ in session.shared_filters:
            group = self.find(filter_)
            if group is not None:
                group.gone(session, lost=lost)

    def finished(self, session: Session, slot: Slot) -> None:
        """A member acknowledged to the end."""
        group = self.by_inbox(slot.timeline)
        if group is not None:
            group.finished(session, slot)

    def member_changed(self, key: DeviceKey, filter_: str, *, gone: bool) -> None:
        """In a cluster: a device is a member, or is none any more, wherever it is."""


class OpenSharedGroup(Step):
    """Begins to give out a new group's messages, once the group is stored."""

    __slots__ = ("_group", "_opening")

    def __init__(self, group: SharedGroup, opening: OpenSession) -> None:
        self._group = group
        self._opening = opening

    def done(self) -> None:
        group = self._group
        if not group.ended:
            group.open(self._opening.offset, self._opening.head)
            group.pump()


class EndSharedGroup(Step):
    """Ends an expired group at its place in the order."""

    __slots__ = ("_group", "_groups")

    def __init__(self, groups: SharedGroups, group: SharedGroup) -> None:
        self._groups = groups
        self._group = group

    def apply(self) -> list[Operation]:
        return self._groups.end_if_empty(self._group)
