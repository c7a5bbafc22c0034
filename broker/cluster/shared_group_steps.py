"""What happens to the shared subscriptions of a cluster at a place in the order of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.pipeline import Step
from storage.records import OpenSession, Operation, Subscription

if TYPE_CHECKING:
    from broker.cluster.shared_group import ClusterSharedGroup
    from broker.cluster.shared_groups import ClusterSharedGroups
    from broker.sessions import Timeline


class Opened(Step):
    """Begins to give out a group's messages here, once it is stored and the other nodes are told."""

    def __init__(self, group: ClusterSharedGroup, opening: OpenSession, inner: Subscription) -> None:
        self._group = group
        self._opening = opening
        self._inner = inner

    def done(self) -> None:
        self._group.opened(self._inner.since, self._opening.head)


class Left(Step):
    """A member has unsubscribed, durably."""

    def __init__(self, groups: ClusterSharedGroups, inbox: Timeline) -> None:
        self._groups = groups
        self._inbox = inbox

    def done(self) -> None:
        self._groups.end(self._inbox)


class Close(Step):
    """Nobody here has a group any more."""

    def __init__(self, groups: ClusterSharedGroups, group: ClusterSharedGroup) -> None:
        self._groups = groups
        self._group = group

    def apply(self) -> list[Operation]:
        return self._groups.close(self._group)


class End(Step):
    """Ends a group that nobody has, unless somebody has joined since ``epoch``."""

    def __init__(self, groups: ClusterSharedGroups, inbox: Timeline, epoch: int, since: int) -> None:
        self._groups = groups
        self._inbox = inbox
        self._epoch = epoch
        self._since = since
        self._closing: list[Operation] = []

    def apply(self) -> list[Operation]:
        self._closing = self._groups.ended(self._inbox, self._epoch)
        return self._closing

    def done(self) -> None:
        if self._closing and self._closing[0].error is None:
            self._groups.forget(self._inbox, self._since)
