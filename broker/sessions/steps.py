"""What opens and ends sessions, as steps at their place in the order of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.pipeline import Step
from broker.sessions import wills
from broker.sessions.channel import Member
from broker.sessions.session import Session
from storage.records import NEVER, CloseSession, Device, DeviceKey, OpenSession, Operation

if TYPE_CHECKING:
    from broker.sessions.lifecycle import Sessions
    from broker.sessions.link import Link
    from broker.sessions.ports import Node

Opened = Callable[[Session, bool], None]
"""Called with the session, and whether it was there before, once it is durable."""


class Left:
    """What a session has while its client is away: its expiry (s), and the will that is delayed, with its time (ms)."""

    __slots__ = ("expiry", "will", "will_at")

    def __init__(self, expiry: int, will: bytes | None = None, will_at: int = 0) -> None:
        self.expiry = expiry
        self.will = will
        self.will_at = will_at


class OpenStep(Step):
    """The opening of a session at its place in the order."""

    __slots__ = (
        "_again",
        "_applied",
        "_begins",
        "_connection",
        "_fresh",
        "_left",
        "_members",
        "_opened",
        "_operation",
        "_server",
        "_session",
        "given_up",
    )

    def __init__(
        self,
        server: Node,
        connection: Link,
        session: Session,
        expiry: int,
        left: Left,
        *,
        fresh: bool,
        clean: bool,
        begins: bool,
        opened: Opened,
        again: Callable[[], None],
    ) -> None:
        """``left``: what the session goes back to where its client gives up. ``fresh``: there is no session here that it goes
        on with. ``clean``: nor is one to be left in storage, where there may be one that another node opened since it was
        looked for."""
        self.given_up = 0
        """Its client went away before the session was stored: what that counts as in `Sessions.given_up`, bytes."""
        self._left = left
        self._applied = False
        self._again: Callable[[], None] | None = again
        self._begins = begins
        self._server = server
        self._connection: Link | None = connection
        self._session = session
        self._fresh = fresh
        self._opened: Opened | None = opened
        self._operation: OpenSession | None = None
        self._members: list[tuple[Member, OpenSession]] = []
        if session.durable or session.will is not None:
            start = server.start_position()
            self._operation = OpenSession(session.key, session.epoch, clean, expiry, session.will, start, at=server.time.wall())

    def give_up(self, size: int) -> Left:
        """Its client is gone, and was told nothing. What goes on of the session: as before, its expiry and its delayed will."""
        self.given_up = size
        self._connection = self._opened = self._again = None  # of many that wait, nothing is kept that is of no use
        if self._operation is not None and not self._applied:
            self._operation.will = self._left.will
        return self._left

    def apply(self) -> list[Operation]:
        self._applied = True
        try:
            return self._apply()
        except BaseException:  # our bug: it has no part in the group, and nobody is to count it for ever
            self._ended()
            raise

    def _apply(self) -> list[Operation]:
        if self._operation is not None:
            for member in self._session.members:
                member.epoch += 1
                self._members.append((member, OpenSession(member.key, member.epoch, False, NEVER)))
            return [self._operation, *[opening for _, opening in self._members]]
        # Clean sessions without a will leave no trace in storage, but that other nodes must know who has the client.
        return [] if self._server.cluster is None else self._server.cluster.hold(self._session.key)

    def done(self) -> None:
        operation = self._operation
        if operation is not None and (will := operation.overtaken) is not None and (operation.created or not wills.delay(will)):
            self._server.pipeline.submit(wills.append(will, self._session.key, self._server.time))
        try:
            self._opened_durably()
        finally:
            self._ended()

    def _ended(self) -> None:
        self._server.sessions.stored(self, self._connection)
        if self._begins:
            self._server.retention_lock.begun()

    def _opened_durably(self) -> None:
        session, connection = self._session, self._connection
        if self._fresh and (self._operation is None or self._operation.created):
            session.unopened = False
            if self._operation is not None:
                session.cursor = self._operation.offset
        if session.unopened and (self._operation is None or self._operation.error is None):
            if self._server.sessions.start_over(session, connection) and self._again is not None:
                self._again()
            return
        if connection is None or connection.closed or session.connection is not connection or self._opened is None:
            return
        operation = self._operation
        if operation is not None and operation.created and not self._fresh:
            self._server.sessions.remove(session)  # it has ended on another node since it was read: the client is to try again
            return
        head = 0
        if operation is not None:
            head = operation.head
        for member, opening in self._members:
            member.head = opening.head
        # Of restored data the client knows more than this session: it is to subscribe again, and to give up what is in flight.
        present, session.restored = not self._fresh and not session.restored, False
        self._opened(session, present)
        if not connection.open:
            return
        outbound = connection.outbound = self._server.delivery.attach(session, head)
        if self._fresh:
            session.awaits_filter = session.cursor < head
        outbound.start()
        connection.go_on()


def closing(session: Session, *, delete: bool) -> CloseSession:
    """What storage is told of the end of a connection, or (``delete``) of a session."""
    return CloseSession(session.key, session.epoch, delete, session.expiry, session.expires_at, session.will, session.will_at)


def disconnected_now(device: Device, now: int) -> CloseSession:
    """What storage is told of a device whose node is gone: its connection ended at ``now`` (ms)."""
    will_at = 0 if device.will is None else now + wills.delay(device.will) * 1000
    expires_at = 0 if device.expiry == NEVER else now + device.expiry * 1000
    return CloseSession(device.key, device.epoch, False, device.expiry, expires_at, device.will, will_at)


class EndStep(Step):
    """The end of a connection (``keep``) or of a session, at its place in the order. ``lost``: another node has the device."""

    __slots__ = ("_keep", "_lost", "_operation", "_server", "_session")

    def __init__(
        self, server: Node, session: Session, operation: CloseSession | None, *, keep: bool = False, lost: bool = False
    ) -> None:
        self._lost = lost
        self._server = server
        self._session = session
        self._operation = operation
        self._keep = keep

    def apply(self) -> list[Operation]:
        operations: list[Operation] = []
        if not self._keep:
            session, server = self._session, self._server
            session.ended = True
            operations += server.subscriptions.ended(session)
        if self._operation is not None:
            operations.append(self._operation)
            if self._keep and self._server.cluster is not None:  # else nobody asks who has a member
                members = self._session.members
                operations += [CloseSession(member.key, member.epoch, False) for member in members]
        elif self._server.cluster is not None and not self._lost:
            operations += self._server.cluster.release(self._session.key)
        return operations

    def done(self) -> None:
        operation, sessions = self._operation, self._server.sessions
        if operation is None:
            return
        if self._keep:
            sessions.deadlines.plan(min((at for at in (operation.expires_at, operation.will_at) if at), default=0))
        else:
            sessions.ended(self._session.key, operation)


class PutAway(Step):
    """What was submitted for these sessions, by when they were used last, is durable behind this step."""

    def __init__(self, sessions: Sessions, found: list[tuple[DeviceKey, float]]) -> None:
        self._sessions = sessions
        self._found = found

    def done(self) -> None:
        self._sessions.put_away(self._found)
