"""What plugins may know of the server and ask of it: the server implements `BrokerApi`, and plugins use it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from broker.access import SessionInfo
from broker.config import Reloaded
from broker.counters import Counters
from broker.publication import Publication
from storage.records import DeviceKey, Message, Operation

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.config import Settings
    from broker.connection import SessionReaders
    from broker.sessions import OldEnd
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
    """False while a commit is failing and being tried again."""
    pending_messages: int = 0
    """Publishes that were read and are not durable yet."""
    pending_bytes: int = 0


class BrokerApi(Protocol):
    """The server, as seen by plugins."""

    @property
    def counters(self) -> Counters: ...

    def status(self) -> ServerStatus: ...

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
    def storage(self) -> Storage:
        """The open storage, to read from. Writing goes through `append` and `commit`."""

    @property
    def old_end(self) -> OldEnd:
        """Held by whoever removes from the old end of timelines."""

    @property
    def access(self) -> AccessControl: ...

    @property
    def readers(self) -> SessionReaders:
        """Devices that are read without a connection, and offsets that are set by hand."""

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

    async def commit(self, operations: list[Operation], timeout: float) -> None:
        """Make operations durable at their place in the order of groups. Raises as `append_within`."""

    async def within(self, work: Awaitable[T], timeout: float) -> T:
        """Await what `readers` does; `Undecided` after ``timeout`` seconds, and it goes on in the background."""

    async def reload(self) -> Reloaded:
        """Read users, access rules, certificates and settings again (docs/configuration.md)."""

    @property
    def listening(self) -> bool:
        """Whether clients can connect; False where only jobs are run."""

    async def lowest_offset(self, user: str) -> int | None:
        """The lowest stored offset among the devices of an inbox, or the shared group's: past it somebody has not acknowledged.

        None where no device reads the inbox. A device that begins behind the head counts where `old_end` says so.
        """

    async def save_offsets(self, timeout: float) -> None:
        """Store how far every device has acknowledged until now, which otherwise takes up to a second. Raises as `commit`."""

    async def expire_sessions(self) -> tuple[int, int]:
        """End every session whose time has passed; (how many there were, how many ended)."""

    async def device_states(self, user: str) -> list[DeviceState]:
        """A user's devices, by client id; all users' where ``user`` is empty."""

    def connected_devices(self, user: str) -> list[DeviceKey]:
        """Those of them that are connected."""

    def tell(self, device: DeviceKey, message: Message) -> bool:
        """Give a message to one connected device that has a filter for its topic, and to nobody else; False where it has not.

        It is not stored. A device too slow for it loses it (QoS 0), or its connection (QoS 1).
        """
