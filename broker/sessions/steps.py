"""What opens and ends sessions, as steps at their place in the order of groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.pipeline import Step
from broker.sessions.session import Session
from storage.records import CloseSession, DeviceKey, OpenSession, Operation

if TYPE_CHECKING:
    from broker.sessions.link import Link
    from broker.sessions.ports import Node
    from broker.sessions.sessions import Sessions

Opened = Callable[[Session, bool], None]
"""Called with the session, and whether it was there before, once it is durable."""


class OpenStep(Step):
    """The opening of a session at its place in the order."""

    __slots__ = ("_begins", "_connection", "_fresh", "_opened", "_operation", "_present", "_server", "_session")

    def __init__(
        self,
        server: Node,
        connection: Link,
        session: Session,
        expiry: int,
        *,
        fresh: bool,
        present: bool,
        begins: bool,
        opened: Opened,
    ) -> None:
        self._begins = begins
        self._server = server
        self._connection = connection
        self._session = session
        self._fresh = fresh
        self._present = present
        self._opened = opened
        self._operation: OpenSession | None = None
        if session.durable or session.will is not None:
            start = server.start_position()
            self._operation = OpenSession(session.key, session.epoch, fresh, expiry, session.will, start, at=server.time.wall())

    def apply(self) -> list[Operation]:
        # Clean sessions without a will leave no trace in storage.
        return [] if self._operation is None else [self._operation]

    def done(self) -> None:
        try:
            self._opened_durably()
        finally:
            if self._begins:
                self._server.old_end.begun()

    def _opened_durably(self) -> None:
        session, connection = self._session, self._connection
        if self._operation is not None and self._fresh:
            session.cursor = self._operation.offset
        if connection.closed or session.connection is not connection:
            return
        operation = self._operation
        head = 0
        if operation is not None:
            head = operation.head
        self._opened(session, self._present)
        if not connection.open:
            return
        outbound = connection.outbound = self._server.delivery.attach(session, head)
        if self._fresh:
            session.awaits_filter = session.cursor < head
        outbound.start()
        connection.go_on()


class EndStep(Step):
    """The end of a connection (``keep``) or of a session, at its place in the order."""

    __slots__ = ("_keep", "_operation", "_server", "_session")

    def __init__(self, server: Node, session: Session, operation: CloseSession | None, *, keep: bool = False) -> None:
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
        return operations

    def done(self) -> None:
        operation, sessions = self._operation, self._server.sessions
        if operation is None:
            return
        if self._keep:
            sessions.plan(min((at for at in (operation.expires_at, operation.will_at) if at), default=0))
        else:
            sessions.ended(self._session.key, operation)


class Barrier(Step):
    """Operations, and who waits for them and for all that was submitted before."""

    def __init__(self, operations: Sequence[Operation], stored: asyncio.Event) -> None:
        self._operations = operations
        self._stored = stored

    def apply(self) -> Sequence[Operation]:
        return self._operations

    def done(self) -> None:
        self._stored.set()


class PutAway(Step):
    """What was submitted for these sessions, by when they were used last, is durable behind this step."""

    def __init__(self, sessions: Sessions, found: list[tuple[DeviceKey, float]]) -> None:
        self._sessions = sessions
        self._found = found

    def done(self) -> None:
        self._sessions.put_away(self._found)
