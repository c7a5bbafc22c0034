"""What plugins may know of the server and ask of it: the server implements `BrokerApi`, and plugins use it.

Over 300 lines: the promises are read in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from broker.access import Identity, SessionInfo
from broker.amqtt.clients import Clients
from broker.amqtt.following import Following
from broker.amqtt.stored_settings import Watcher
from broker.config import Reloaded
from broker.counters import Counters
from broker.publication import Publication
from storage.records import DeviceKey, MarkRead, Message, Operation

if TYPE_CHECKING:
    from broker.access import AccessControl, Bans
    from broker.amqtt.standings import LiveStandings
    from broker.config import CertificateWatch, Origins, Settings
    from broker.connection import NodeState, SessionReaders
    from broker.limits import Gate
    from broker.sessions import RetentionLock
    from broker.trace import Tracer
    from storage.interface import Storage

T = TypeVar("T")


class Undecided(Exception):
    """Storage was given it and has not answered: it will be durable once storage is back, unless the broker ends before."""


class DeviceState(NamedTuple):
    """A device as its user may see it. ``offset`` is None for a clean session, which has none. Times are ms, 0 is never."""

    key: DeviceKey
    connected: bool
    durable: bool
    offset: int | None
    epoch: int
    expires_at: int
    subscriptions: list[tuple[str, int, int]]
    """(filter, QoS, since)."""


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
    """False while a commit is failing and being tried again, or storage says that it would take no message."""
    disk_full: bool = False
    """Storage is not available for want of room."""
    pending_messages: int = 0
    """Publishes that were read and are not durable yet."""
    pending_bytes: int = 0
    trouble: str = ""
    """In a cluster, why no client should come to this node: ``leaving``, or ``unheard`` where the others do not know that it
    lives."""

    @property
    def not_ready(self) -> str:
        """Why no client should come here; empty where they should."""
        if self.trouble or self.storage_available:
            return self.trouble
        return "disk-full" if self.disk_full else "storage-away"


class ConnectedDevices(NamedTuple):
    """How the connected devices stand."""

    listeners: dict[str, int]
    """How many connections each has."""
    inflight_in: int = 0
    """QoS 1 and 2 messages of clients that are not acknowledged to the end."""
    inflight_out: int = 0
    """The same of messages to them."""
    lagging: int = 0
    """Devices that have not been given all of their timelines."""
    lag: int = 0
    """Entries that they have not been given, all together."""
    lag_largest: int = 0


class BrokerApi(Protocol):
    """The server, as seen by plugins."""

    @property
    def counters(self) -> Counters: ...

    def status(self) -> ServerStatus: ...

    async def connected_devices(self) -> ConnectedDevices:
        """Counted by walking over all connections, which holds nobody up."""

    def plugin(self, kind: type[T]) -> T | None:
        """The loaded plugin of a class, if there is one."""

    def sessions(self) -> Iterable[SessionState]:
        """The sessions in memory, in no order: every connected client's, and of the others those that were used just now."""

    def session(self, client_id: str) -> SessionState | None:
        """The session in memory of a client id; where several users have one of that id, the connected one if there is one."""

    def subscriptions(self) -> Iterable[tuple[str, str, int]]:
        """(filter, client id, QoS) of every subscription of the sessions in memory, in no order."""

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
        """Subscribe the session of a client id as its own SUBSCRIBE would, made durable where there is none (for the anonymous
        user of that client id). Of several users' sessions the connected one is meant.

        The granted QoS, or 0x80 where the filter is invalid or beyond a limit, or an ACL forbids it. Raises ValueError for
        a QoS that there is not.
        """


class Services(BrokerApi, Protocol):
    """What the HTTP API and the requests over MQTT need beyond that."""

    @property
    def settings(self) -> Settings: ...

    @property
    def certificates(self) -> CertificateWatch:
        """The certificates of what listens, and when they expire. Who listens adds its own."""

    @property
    def origins(self) -> Origins:
        """Which web pages may call. Who listens adds its port."""

    @property
    def storage(self) -> Storage:
        """The open storage, to read from. Writing goes through `append` and `commit`."""

    @property
    def retention_lock(self) -> RetentionLock:
        """Held by whoever removes from the old end of timelines."""

    @property
    def access(self) -> AccessControl: ...

    @property
    def gate(self) -> Gate:
        """What one address may do: failed logins of callers count there too."""

    @property
    def readers(self) -> SessionReaders:
        """Devices that are read without a connection, and offsets that are set by hand."""

    @property
    def following(self) -> Following:
        """What plugins have the devices of users follow."""

    @property
    def clients(self) -> Clients:
        """Who is connected to any node, and the end of connections by hand."""

    @property
    def bans(self) -> Bans:
        """Who is not let in. Changed by `commit` of stored settings (`broker.access.bans`)."""

    @property
    def tracer(self) -> Tracer:
        """What clients send and get, for who follows them."""

    @property
    def auth_plugins(self) -> list[object]: ...

    def now(self) -> int:
        """The time (ms) that what expires is stored in and compared with: it never steps (`broker.clock`)."""

    def wall(self) -> int:
        """What the machine's clock says (ms): what messages are stamped with, and people are shown."""

    async def append_within(self, publication: Publication, timeout: float) -> Publication:
        """Take a message through the pipeline as any publisher's; returns when it is durable, with its id, seq and time.

        Raises what refused it; `storage.errors.StorageUnavailable` after ``timeout`` seconds if it never came to storage, and
        then never will; and `Undecided` if storage has it and does not answer.
        """

    async def append_all_within(self, publications: Sequence[Publication], timeout: float) -> list[Publication | BaseException]:
        """The same for several, which keep their order, and share a commit where they can. What one raises is in its place."""

    def submit(self, publication: Publication) -> asyncio.Future[Publication]:
        """Give a message its place among the groups at once, without waiting for room. The future is done when it is durable;
        or it has what refused it."""

    async def commit(self, operations: list[Operation], timeout: float) -> None:
        """Make operations durable at their place in the order of groups. Raises as `append_within`."""

    def watch_settings(self, kind: str, callback: Watcher) -> Callable[[], None]:
        """Be told what administrators keep in storage under a kind, such as ``user``: by the first call with all of it, before
        clients can connect (at once, where they can already), and then after each change: one of this node at once, one of
        another node within a second. Ended by the function that is returned.

        ``callback(settings, changed)``, on the event loop: key → value, as it is until the next call, and the keys that were
        added, changed or removed. What it raises is logged, and while the broker starts ends that. Written by `commit` of
        `storage.records.SaveSetting` and `DropSetting`, whose watchers were called when it returns.
        """

    def revoke(self, revoked: Callable[[Identity], bool], why: str) -> int:
        """Users or rules have changed: ask anew what each client of this node may do, have HTTP callers prove anew who they
        are, and end the connections whose identity is revoked. How many they were. ``why`` is for their DISCONNECT.

        To be called on every node, by whoever watches what has changed; a changed rule revokes nobody's identity.
        """

    async def within(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Await what `readers` does; `Undecided` after ``timeout`` seconds, and it goes on in the background. Raises
        `StorageUnavailable`, and does nothing, while many go on there."""

    def read_fanout_of(self, topic: str) -> bool:
        """Whether all readers of a topic share one inbox (docs/decisions/0012)."""

    async def may(self, what: str) -> bool:
        """Whether this node is the one that does something of which one node at a time is enough: it takes the lease of that
        name, or keeps it until it ends. True where storage serves one node. Raises `StorageError`."""

    def answer_nodes(self, kind: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> None:
        """What is answered to `ask_nodes` of another node; None where this is not the one that is meant."""

    async def ask_nodes(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ask all other nodes; the first answer that is not None, or None where nobody has one."""

    async def cluster(self) -> list[NodeState] | None:
        """The nodes that serve the same data, by number; None where storage serves one node."""

    async def leave(self, node: str) -> NodeState | None:
        """Ask a node, by number or name, to send its clients elsewhere and to end; this one where the name is empty. None where
        storage serves one node. Raises `broker.connection.NoSuchNode`."""

    async def reload(self) -> Reloaded:
        """Read users, access rules, certificates and settings again (docs/configuration.md)."""

    @property
    def listening(self) -> bool:
        """Whether clients can connect; False where only jobs are run."""

    @property
    def addresses(self) -> Mapping[str, tuple[str, int]]:
        """Where each listener can be connected to, by its name: (host, port), or of a Unix socket (``unix:…``, 0)."""

    def users_away(self, topic: str) -> Iterator[str]:
        """The users who have a stored filter for a topic, and no device that is connected, to any node, or waits for news; but
        for those who are disabled or banned."""

    async def lets_receive(self, user: str, topic: str) -> bool:
        """Whether access control lets a user receive what is published to a topic, on any of the stored devices that have a
        filter for it. Where a plugin fails it is asked again, as for a delivery. Raises `StorageError`."""

    def standings(self) -> LiveStandings:
        """Where devices stand now, on whichever node: for one question to `broker.ledger.Ledger`."""

    def watch_progress(self, callback: Callable[[Sequence[Operation]], None]) -> None:
        """Be told what of this node's devices is about to be stored: their `storage.records.Progress`, as it is at its place in
        the order. ``callback`` is on the way of messages: it may not wait, and what it raises is a group's failure."""

    def watch_reads(self, callback: Callable[[Sequence[MarkRead]], None]) -> None:
        """Be told of read positions that `commit` of this node has moved, durably. ``callback`` may not wait."""

    async def lowest_offset(self, user: str) -> int | None:
        """The lowest stored offset among the devices of an inbox, or the shared group's: past it somebody has not acknowledged.

        None where no device reads the inbox. A device that begins behind the head counts where `retention_lock` says so.
        """

    async def save_offsets(self, timeout: float) -> None:
        """Store how far every device has acknowledged until now, which otherwise takes up to a second. Raises as `commit`."""

    async def expire_sessions(self) -> tuple[int, int]:
        """End every session whose time has passed; (how many there were, how many ended)."""

    async def device_states(self, user: str, begin: DeviceKey, limit: int) -> list[DeviceState]:
        """Up to ``limit`` devices from a key on, by user and client id: a user's, or all users' where ``user`` is empty."""

    def tell_user(self, user: str, prefix: str, payload: bytes, *, but: str = "") -> None:
        """`tell` each connected device of a user, on whichever node, by the topic ``prefix`` and its client id; not ``but``."""

    def tell(self, device: DeviceKey, message: Message) -> bool:
        """Give a message to one connected device that has a filter for its topic, and to nobody else; False where it has not.

        It is not stored. A device too slow for it loses it (QoS 0), or its connection (QoS 1).
        """
