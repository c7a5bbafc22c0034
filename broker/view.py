"""The server as plugins see it: `ServerView` over the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker import topics
from broker.counters import Counters
from broker.packets.codes import ProtocolViolation
from broker.server_view import ServerStatus, SessionState
from broker.session import Session
from storage.errors import MessageRefused
from storage.records import Append, Message

if TYPE_CHECKING:
    from broker.server import Server

BROKER_USER = "b/tideline"
"""The user key of messages that the broker itself publishes."""


class Waiter:
    """The origin of an append whose publisher awaits the commit."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Append] = asyncio.get_running_loop().create_future()

    def stored(self, append: Append, acks: object) -> None:
        """The group is durable, or this message was refused."""
        if self.future.done():
            return
        if append.error is not None:
            self.future.set_exception(append.error)
        else:
            self.future.set_result(append)


class View:
    """Implements `broker.server_view.ServerView`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def counters(self) -> Counters:
        return self._server.counters

    def status(self) -> ServerStatus:
        server = self._server
        return ServerStatus(
            clients_connected=server.clients,
            clients_disconnected=len(server.sessions) - server.clients,
            clients_maximum=server.clients_maximum,
            subscriptions=server.trie.count,
            shared_subscriptions=len(server.shares),
            retained=server.retained.count,
            storage_available=server.pipeline.unavailable_since is None,
            pending_messages=server.pipeline.pending,
            pending_bytes=server.pipeline.pending_bytes,
        )

    def sessions(self) -> Iterable[SessionState]:
        return (_state(session) for session in list(self._server.sessions))

    def session(self, client_id: str) -> SessionState | None:
        found = None
        for session in self._server.sessions.named(client_id):
            found = session
            if session.connection is not None:
                break
        return _state(found) if found is not None else None

    def subscriptions(self) -> Iterable[tuple[str, str, int]]:
        return (
            (filter_, session.key.client_id, subscription.options & 3)
            for session in list(self._server.sessions)
            for filter_, subscription in list(session.subscriptions.items())
        )

    def retained(self) -> Iterable[Message]:
        return iter(self._server.retained)

    def retained_message(self, topic: str) -> Message | None:
        return self._server.retained.get(topic)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, durable: bool = True) -> None:
        try:
            topics.validate_name(topic)
        except ProtocolViolation as violation:
            raise MessageRefused(violation.text) from violation
        message = Message(0, topic, BROKER_USER, "", 0, qos, payload, retain)
        if durable:
            await self.append(Append(message, retain=retain))
        else:
            self._server.publish_transient(message)

    async def append(self, append: Append) -> Append:
        """Take a message through the pipeline; returns when it is durable. Raises what refused it."""
        waiter = Waiter()
        append.origin = waiter
        self._server.pipeline.submit(append)
        return await waiter.future

    async def add_subscription(self, client_id: str, filter: str, qos: int) -> int:
        try:
            topics.validate_filter(filter)
        except ProtocolViolation:
            return 0x80
        return await self._server.sessions.add_subscription(client_id, filter, qos)


def _state(session: Session) -> SessionState:
    connection = session.connection
    return SessionState(
        session.key.user,
        session.key.client_id,
        connection is not None,
        not session.durable,
        connection.info if connection is not None and connection.open else None,
        connection.inbound if connection is not None else 0,
        len(session.window),
        0,
    )
