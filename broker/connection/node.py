"""What a connection uses of the node that it is on. `broker.server.Server` extends it, and puts the parts in."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from broker.clock import ServerTime
from broker.counters import Counters
from broker.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.clock import Wheel
    from broker.config import Settings
    from broker.connection.connection import Connection
    from broker.delivery import Delivery, Share
    from broker.hooks import EnhancedAuthPlugin, RequestPlugin
    from broker.pipeline import Pipeline
    from broker.routing import Subscriptions, Trie
    from broker.sessions import OldEnd, Session, Sessions
    from storage.interface import Storage

log = logging.getLogger(__name__)


class Node(ABC):
    """The parts, which are there once the node has started."""

    def __init__(self, settings: Settings, time: ServerTime | None = None) -> None:
        self.settings = settings
        self.receive_maximum = settings.mqtt.receive_maximum
        self.time = time or ServerTime()
        self.counters = Counters()
        self.strangers = RateLimitedLog(log, 10.0)
        """Tells who connects and does not speak MQTT."""
        self.connections: set[Connection] = set()
        self.clock: Wheel
        self.access: AccessControl
        self.pipeline: Pipeline
        self.sessions: Sessions
        self.subscriptions: Subscriptions
        self.old_end: OldEnd
        self.storage: Storage
        self.trie: Trie[Session | Share]
        self.delivery: Delivery
        self.requests: RequestPlugin | None = None

    @property
    @abstractmethod
    def auth_methods(self) -> Mapping[str, EnhancedAuthPlugin]:
        """Enhanced authentication: the plugin of each method."""

    @abstractmethod
    def start_position(self) -> str:
        """Where a device that never connected before starts in its user's inbox."""

    @abstractmethod
    def connected(self, connection: Connection) -> None:
        """A client got its CONNACK."""
