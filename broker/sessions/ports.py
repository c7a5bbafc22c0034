"""What `Sessions` uses of the rooms above it; `broker.server` hands it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.clock import ServerTime, Wheel
    from broker.config import Settings
    from broker.counters import Counters
    from broker.pipeline import Pipeline
    from broker.sessions.channel import Channels
    from broker.sessions.lifecycle import Sessions
    from broker.sessions.link import Link, OutboundPort
    from broker.sessions.retention_lock import RetentionLock
    from broker.sessions.session import Session
    from storage.interface import Storage
    from storage.records import Device, DeviceKey, Operation


class Delivery(Protocol):
    """What delivers to sessions that are connected."""

    def attach(self, session: Session, head: int) -> OutboundPort:
        """Serve the session's connection; ``head`` is its inbox's as of the commit that opened it."""

    def detach(self, session: Session) -> None:
        """The session's connection ended."""

    def unsaved(self, session: Session) -> bool:
        """Whether the session's offset moved, and is still to be stored."""

    def save(self, session: Session) -> object:
        """Store the session's progress with the next group."""


class Groups(Protocol):
    """The shared subscriptions."""

    def load(self, device: Device) -> None:
        """Take a stored group up again."""

    def detach(self, session: Session, *, lost: bool) -> None:
        """A member's connection ended; ``lost``: as the device has connected through another node."""

    def member_changed(self, key: DeviceKey, filter_: str, *, gone: bool) -> None:
        """In a cluster: a device is a member, or is none any more, wherever it is."""


class Subscriptions(Protocol):
    """The one way in which filters enter a session and leave it."""

    def load(self, session: Session) -> None:
        """Take up a stored session's filters."""

    def put_away(self, session: Session) -> None:
        """The session is kept in storage alone."""

    def ended(self, session: Session) -> list[Operation]:
        """The session ends: its filters match no more. What is to be stored for that."""


class ChannelMembers(Protocol):
    """Who is a member of which channel."""

    def member_stored(self, channel: str, client_id: str, filter_: str) -> None:
        """Storage has a member with a filter."""

    def device_stored(self, device: DeviceKey, filter_: str) -> None:
        """Storage has a device with a filter."""

    async def complete(self, storage: Storage) -> int:
        """All was told of: make members of the devices that should be and are not; how many."""


class Filters(Protocol):
    """The filters of all sessions."""

    def add_aside(self, filter_: str, member: str) -> None:
        """A filter of a session that is in storage alone."""


class Access(Protocol):
    """What clients may do."""

    def cached(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        """The answer, if it can be had without waiting."""

    def closed(self, topic: str) -> str:
        """Why nobody may publish to a topic, whatever the rules say; empty where that is not so."""

    def log_refusal(self, session: SessionInfo, action: str, topic: str, why: str = "") -> None:
        """Tell whoever writes the rules that a client was refused something."""


class Peers(Protocol):
    """What the sessions ask of the other nodes, where several serve the same database."""

    def time(self) -> int:
        """The database's clock, ms, to some milliseconds the same on all nodes."""

    def hold(self, key: DeviceKey) -> list[Operation]:
        """The connection of a clean session opens of which storage keeps nothing else: what tells the other nodes."""

    def release(self, key: DeviceKey) -> list[Operation]:
        """It has ended."""

    def lost(self, key: DeviceKey) -> None:
        """Another node has told that it has the device."""

    async def may(self, what: str) -> bool:
        """Whether this node is the one that does something: it takes the lease of that name, or keeps it.

        Raises `StorageError`.
        """


class Node(Protocol):
    """The node that the sessions are on."""

    @property
    def cluster(self) -> Peers | None:
        """None where storage serves one node."""

    @property
    def access(self) -> Access: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def time(self) -> ServerTime: ...

    @property
    def clock(self) -> Wheel: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def retention_lock(self) -> RetentionLock: ...

    @property
    def storage(self) -> Storage: ...

    @property
    def trie(self) -> Filters: ...

    @property
    def channels(self) -> Channels: ...

    @property
    def channel_members(self) -> ChannelMembers: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def delivery(self) -> Delivery: ...

    @property
    def shared_groups(self) -> Groups: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    def start_position(self) -> str:
        """Where a device that never connected before starts in its user's inbox."""

    def opening(self, connection: Link) -> None:
        """A client's connection is about to open its session; `disconnected` follows."""

    def disconnected(self, connection: Link, *, was_open: bool) -> None:
        """A client's connection ended."""
