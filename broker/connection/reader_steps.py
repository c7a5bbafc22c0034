"""What readers without a connection do to a device, as steps at their place in the order of groups."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.pipeline import Awaited, Step
from broker.sessions import NOT_YET, Session
from storage.records import (
    CloseSession,
    OpenSession,
    Operation,
    Subscribe,
    Subscription,
    Unsubscribe,
)

if TYPE_CHECKING:
    from broker.connection.node import Node
    from broker.sessions import RetentionLock


class Begun(Step):
    """Ends a beginning once all that was submitted before is durable."""

    def __init__(self, retention_lock: RetentionLock) -> None:
        self._retention_lock = retention_lock

    def done(self) -> None:
        self._retention_lock.begun()


class Saved:
    """Waits for a session's progress to be durable."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def progress_saved(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class ClaimSession(Awaited):
    """A reader becomes the device's present connection, at its place in the order."""

    def __init__(self, server: Node, session: Session, *, fresh: bool) -> None:
        super().__init__()
        self._sessions = server.sessions
        self._session = session
        self._fresh = fresh
        session.epoch += 1
        self.epoch = session.epoch
        # A will that is still to come is given up, as by a connection that continues the session [MQTT-3.1.3-9].
        session.will, session.will_at = None, 0
        server.sessions.deadlines.prolong(session)
        self._opening = OpenSession(
            session.key, self.epoch, fresh, session.expiry, None, server.start_position(), at=server.time.wall()
        )
        self._closing = CloseSession(session.key, self.epoch, False, session.expiry, session.expires_at)

    def apply(self) -> list[Operation]:
        return [self._opening, self._closing]

    def done(self) -> None:
        if self._fresh:
            self._session.cursor = self._opening.offset
            self._session.awaits_filter = self._opening.offset < self._opening.head
        self._sessions.deadlines.plan(self._closing.expires_at)
        super().done()


class MoveOffset(Awaited):
    """Sets a device's offset, at its place in the order."""

    def __init__(self, server: Node, session: Session, offset: int) -> None:
        super().__init__()
        self._server = server
        self._session = session
        self.offset = offset

    def apply(self) -> list[Operation]:
        session = self._session
        if self._server.sessions.get(session.key) is not session:
            return []
        window, offset = session.window, self.offset
        back = offset < session.offset
        if not back:
            window.settle(offset)
            session.cursor = max(session.cursor, offset)
            operations: list[Operation] = []
        else:
            window.settle()
            session.cursor = offset
            operations = self._widen()
        outbound = session.connection.outbound if session.connection is not None else None
        if outbound is not None:
            outbound.moved()
        progress = session.progress()
        for watcher in self._server.delivery.watchers:
            watcher([progress])
        return [*operations, progress]

    def _widen(self) -> list[Operation]:
        """Make the entries after the offset due to filters that were subscribed to later. Only as new subscriptions, since a
        known one keeps its place."""
        session = self._session
        later = [
            s
            for s in session.subscriptions.values()
            if s.filter not in session.shared_filters and self.offset < s.since and s.since != NOT_YET
        ]
        if not later:
            return []
        for subscription in later:
            subscription.since = self.offset
        copies = [Subscription(s.filter, s.options, s.identifier, s.since) for s in later]
        return [
            Unsubscribe(session.key, session.epoch, [s.filter for s in later]),
            Subscribe(session.key, session.epoch, copies),
        ]

    def done(self) -> None:
        session = self._session
        if session.connection is not None and session.connection.outbound is not None:
            session.connection.outbound.pump()
        super().done()
