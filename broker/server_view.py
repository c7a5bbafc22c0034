"""What plugins may know of the server and ask of it: the server implements `ServerView`, the chassis and our plugins use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from broker.authority import SessionInfo
from broker.counters import Counters
from storage.records import Message


class SessionState(NamedTuple):
    """A connected client, or a durable session that waits for one.

    ``info`` is what the connection of a connected client keeps for plugins. Counts are of messages: in flight from the
    client and to it, and waiting in its inbox (0 where finding out would take a look into storage).
    """

    user: str
    client_id: str
    connected: bool
    clean: bool
    info: SessionInfo | None = None
    inflight_in: int = 0
    inflight_out: int = 0
    queued: int = 0


class ServerStatus(NamedTuple):
    """How the server is at this moment. Cheap to get: nothing is counted by walking."""

    clients_connected: int = 0
    clients_disconnected: int = 0
    """Durable sessions without a connection."""
    clients_maximum: int = 0
    """The most clients that were ever connected at once."""
    subscriptions: int = 0
    shared_subscriptions: int = 0
    retained: int = 0
    storage_available: bool = True
    """False while a commit is failing and being tried again."""
    pending_messages: int = 0
    """Publishes that were read and are not durable yet."""
    pending_bytes: int = 0


class ServerView(Protocol):
    """The server, as seen by plugins."""

    @property
    def counters(self) -> Counters: ...

    def status(self) -> ServerStatus: ...

    def sessions(self) -> Iterable[SessionState]:
        """Every session, in no order."""

    def session(self, client_id: str) -> SessionState | None:
        """The session of a client id; where several users have one of that id, the connected one if there is one."""

    def subscriptions(self) -> Iterable[tuple[str, str, int]]:
        """(filter, client id, QoS) of every subscription, in no order."""

    def retained(self) -> Iterable[Message]:
        """Every retained message, in no order."""

    def retained_message(self, topic: str) -> Message | None: ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, durable: bool = True) -> None:
        """Publish as the server: no ACL is asked, and ``$`` topics may be named.

        ``durable``: returns once a group with the message is committed, and waits for as long as storage is away.
        Otherwise the message goes to connected subscribers from memory, is retained in memory only, and never waits
        for storage. Raises what refused the message (an invalid topic, a plugin, `storage.errors.MessageRefused`).
        """

    async def add_subscription(self, client_id: str, filter: str, qos: int) -> int:
        """Subscribe the session of a client id, made durable where there is none (for the anonymous user of that client id).

        The granted QoS, or 0x80 where the filter is invalid or an ACL forbids it.
        """
