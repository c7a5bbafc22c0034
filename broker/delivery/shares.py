"""All shared subscription groups of the node: which there are, who joins and leaves them, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.delivery.share import Share
from broker.packets import parse_share
from broker.pipeline import Step
from broker.sessions import Timeline, group_inbox
from storage.records import (
    NEVER,
    CloseSession,
    Device,
    OpenSession,
    Operation,
    Subscribe,
    Subscription,
)

if TYPE_CHECKING:
    from broker.delivery.ports import Node
    from broker.sessions import Session


class Shares:
    """All groups, by inbox key."""

    def __init__(self, server: Node) -> None:
        self._server = server
        self._shares: dict[str, Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[Share]:
        return iter(self._shares.values())

    def load(self, device: Device) -> None:
        """Take a stored group up again."""
        for filter_, subscription in device.subscriptions.items():
            share = self._make(Timeline(device.key.user), filter_)
            share.restore(device)
            self._server.trie.add(filter_, share, subscription)

    async def loaded(self) -> None:
        """All sessions are loaded too: find out what the members have, and where the inboxes end."""
        for session in self._server.sessions:
            for filter_ in session.shares:
                operations = self.join(session, session.subscriptions[filter_])
                if operations:
                    self._server.pipeline.submit(StoreShare(operations))
        for share in self._shares.values():
            share.reconcile()
            self._server.delivery.open_share(share)
            share.open(share.cursor, await self._server.storage.inbox_head(share.inbox))
            if not share.members:
                self._expire_later(share)

    def _make(self, inbox: Timeline, filter_: str) -> Share:
        share = self._shares[inbox] = Share(self._server, inbox, filter_)
        return share

    def join(self, session: Session, subscription: Subscription) -> list[Operation]:
        """Make the session a member of its `$share/…` filter's group, at this place in the order."""
        name, filter_ = parse_share(subscription.filter) or ("", "")
        inbox = group_inbox(name, filter_)
        share = self._shares.get(inbox)
        operations: list[Operation] = []
        if share is None:
            share = self._make(inbox, filter_)
            inner = Subscription(filter_, 2, since=-1)
            self._server.trie.add(filter_, share, inner)
            opening = OpenSession(share.key, 0, True, NEVER, at=self._server.time.wall())
            operations = [opening, Subscribe(share.key, 0, [inner])]
            self._server.delivery.open_share(share)
            self._server.pipeline.submit(OpenShare(share, opening))
        share.join(session, subscription)
        return operations

    def find(self, filter_: str) -> Share | None:
        """The group of a `$share/…` filter."""
        parsed = parse_share(filter_)
        return self._shares.get(group_inbox(*parsed)) if parsed else None

    def by_inbox(self, inbox: str) -> Share | None:
        """The group with this inbox key."""
        return self._shares.get(inbox)

    def leave(self, session: Session, filter_: str, *, unsubscribed: bool) -> list[Operation]:
        """The session is no member any more. The last one to unsubscribe ends the group."""
        share = self.find(filter_)
        if share is None:
            return []
        share.leave(session)
        if share.members:
            return []
        if unsubscribed:
            return self._end(share)
        self._expire_later(share)
        return []

    def _expire_later(self, share: Share) -> None:
        share.no_timer()
        share.timer = self._server.clock.after(self._server.settings.mqtt.share_expiry, lambda: self._expire(share))

    def _expire(self, share: Share) -> None:
        if not share.members and self._shares.get(share.inbox) is share:
            self._server.pipeline.submit(EndShare(self, share))

    def _end(self, share: Share) -> list[Operation]:
        del self._shares[share.inbox]
        self._server.trie.remove(share.filter, share)
        self._server.delivery.close_share(share)
        return [CloseSession(share.key, 0, True)]

    def end_if_empty(self, share: Share) -> list[Operation]:
        """End a group that nobody came back to."""
        return [] if share.members or self._shares.get(share.inbox) is not share else self._end(share)

    def detach(self, session: Session) -> None:
        """The session's connection ended."""
        for filter_ in session.shares:
            share = self.find(filter_)
            if share is not None:
                share.hand_back(session)


class StoreShare(Step):
    """Stores a group again whose members know it and whose own state is gone."""

    __slots__ = ("_operations",)

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations

    def apply(self) -> list[Operation]:
        return self._operations


class OpenShare(Step):
    """Begins to give out a new group's messages, once the group is stored."""

    __slots__ = ("_opening", "_share")

    def __init__(self, share: Share, opening: OpenSession) -> None:
        self._share = share
        self._opening = opening

    def done(self) -> None:
        share = self._share
        if not share.ended:
            share.open(self._opening.offset, self._opening.head)
            share.pump()


class EndShare(Step):
    """Ends an expired group at its place in the order."""

    __slots__ = ("_share", "_shares")

    def __init__(self, shares: Shares, share: Share) -> None:
        self._shares = shares
        self._share = share

    def apply(self) -> list[Operation]:
        return self._shares.end_if_empty(self._share)
