"""What a connection uses of the node that it is on. `broker.server.Server` extends it, and puts the parts in."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from broker.access import Bans
from broker.clock import ServerTime
from broker.counters import Counters
from broker.crowd import TIMES
from broker.limits import Gate
from broker.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from broker.access import AccessControl, Openness
    from broker.clock import Wheel
    from broker.config import Settings
    from broker.connection.connection import Connection
    from broker.delivery import Delivery, SharedGroup
    from broker.hooks import EnhancedAuthPlugin, RequestPlugin, SpanPlugin
    from broker.pipeline import Pipeline
    from broker.routing import ChannelMembers, Subscriptions, Trie
    from broker.sessions import Channels, Read, RetentionLock, Session, Sessions
    from broker.trace import Tracer
    from storage.interface import Storage
    from storage.records import DeviceKey, Operation

log = logging.getLogger(__name__)


class NoSuchNode(Exception):
    """There is no such node, or it can do nothing any more; the text says what there is."""


class NodeState(NamedTuple):
    """A node as an operator sees it. ``state`` is up, leaving or dead; ``beat_age`` is in ms of the database's clock, ``lag``
    how many of the routes' changes it has not applied; ``me`` is the node that was asked."""

    number: int
    token: int
    name: str
    state: str
    sessions: int
    beat_age: int
    routes: int
    lag: int
    started: int
    features: int
    me: bool


class Clustered(Protocol):
    """What a node is to others that serve the same database (`broker.cluster`)."""

    @property
    def trouble(self) -> str:
        """Why no client should come here: ``leaving``, or ``unheard`` where this node could not tell the others for a while
        that it lives; empty where they should."""

    async def listed(self) -> list[NodeState]:
        """All nodes that are up, or dead and not settled."""

    async def ask_to_leave(self, name: str) -> NodeState:
        """Ask a node, by its number or name, to send its clients elsewhere and to end; this one, where the name is empty.

        Raises `NoSuchNode`.
        """

    def watch(self, user: str) -> None:
        """Be woken for a user's inbox, from a moment on that is soon; `unwatch` must follow."""

    def unwatch(self, user: str) -> None:
        """One that watched is gone."""

    def time(self) -> int:
        """See `broker.sessions.Peers`."""

    def hold(self, key: DeviceKey) -> list[Operation]:
        """See `broker.sessions.Peers`."""

    def release(self, key: DeviceKey) -> list[Operation]:
        """See `broker.sessions.Peers`."""

    def lost(self, key: DeviceKey) -> None:
        """See `broker.sessions.Peers`."""

    async def may(self, what: str) -> bool:
        """See `broker.sessions.Peers`."""

    def answer_all(self, kind: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> None:
        """What is answered to `ask_all` of another node; None where this is not the one that is meant."""

    def note_user(self, user: str, kind: str, body: Mapping[str, Any]) -> None:
        """Tell something to the other nodes that have a device of a user; soon, and without an answer."""

    async def ask_all(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ask all other nodes; the first answer that is not None, or None where nobody has one."""

    def has(self, user: str) -> bool:
        """Whether another node has a device of the user's, or somebody who waits for the user's news. Of its own a node knows
        before the routes say so."""

    async def gather_all(self, kind: str, body: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
        """Ask all other nodes: the answers of those that have one, and the names of those that did not answer."""

    def listens(self, topic: str) -> bool:
        """Whether a clean session on another node may have a filter that matches."""

    def in_turn(self, key: DeviceKey) -> AbstractAsyncContextManager[None]:
        """Enter to open a device's session: one CONNECT after the other, as they came."""

    async def take(self, key: DeviceKey) -> Read | None:
        """Before a device connects: see to it that no other node has it, and that nothing of it here is older than storage.
        Waits for as long as storage is away. What was read of the device, where that is as it is now. Raises
        `storage.errors.FencedOut` where this node was marked dead."""


class Node(ABC):
    """The parts, which are there once the node has started."""

    def __init__(self, settings: Settings, time: ServerTime | None = None) -> None:
        self.settings = settings
        self.strangers_refused = frozenset(one.name for one in settings.listeners if not one.lets_anonymous)
        """The listeners at which nobody comes in whom no plugin verified."""
        self.receive_maximum = settings.mqtt.receive_maximum
        self.max_topic_levels = settings.mqtt.max_topic_levels
        self.connection_pending = settings.limits.connection_pending
        self.connection_share = min(settings.limits.connection_share, settings.limits.connection_pending)
        self.connection_least = max(1, self.connection_share // TIMES)
        self.time = time or ServerTime()
        self.counters = Counters()
        self.other_protocols = RateLimitedLog(log, 10.0)
        """Tells who connects and does not speak MQTT."""
        self.bans = Bans()
        self.gate = Gate(settings.limits, self.counters)
        self.connections: set[Connection] = set()
        self.stopping = asyncio.Event()
        """Set once the node stops. Who waits for storage is told within half of ``shutdown_grace``."""
        self.clock: Wheel
        self.access: AccessControl
        self.openness: Openness
        self.pipeline: Pipeline
        self.sessions: Sessions
        self.subscriptions: Subscriptions
        self.retention_lock: RetentionLock
        self.storage: Storage
        self.trie: Trie[Session | SharedGroup]
        self.delivery: Delivery
        self.requests: RequestPlugin | None = None
        self.spans: SpanPlugin | None = None
        """What records spans; None without such a plugin."""
        self.tracer: Tracer | None = None
        """What is told what clients send and get; None while nobody follows any."""
        self.channels: Channels
        self.channel_members: ChannelMembers
        self.cluster: Clustered | None = None
        """None where storage serves one node."""

    @property
    @abstractmethod
    def auth_methods(self) -> Mapping[str, EnhancedAuthPlugin]:
        """Enhanced authentication: the plugin of each method."""

    @abstractmethod
    def start_position(self) -> str:
        """Where a device that never connected before starts in its user's inbox."""

    @abstractmethod
    def claimed(self, key: DeviceKey) -> None:
        """A reader without a connection has made a device."""

    @abstractmethod
    def connected(self, connection: Connection) -> None:
        """A client got its CONNACK."""
