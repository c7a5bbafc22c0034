"""What a session, and what delivers to it, need of the client's connection; and what both need of delivery.

Base classes and not protocols: in the compiled core a call through a base class costs what any call costs, and through a
protocol a look-up by name for each message (docs/decisions/0006-rooms-with-doors.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from broker.publication import Acknowledged

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.sessions.connect_options import ConnectOptions
    from broker.sessions.session import Session
    from broker.sessions.window import Slot


class OutboundPort(ABC):
    """What delivers to one connection."""

    __slots__ = ()

    @abstractmethod
    def start(self) -> None:
        """Send again what was in flight, then go on from the cursor."""

    @abstractmethod
    def pump(self) -> None:
        """Write what the socket and the window have room for."""

    @abstractmethod
    def moved(self) -> None:
        """The session's cursor was set; `pump` follows."""

    @abstractmethod
    def finished(self, slot: Slot) -> None:
        """A message left the window."""

    @abstractmethod
    def pubrel(self, slot: Slot) -> None:
        """Send PUBREL, once the state that it stands for is durable."""


class Link(Acknowledged):
    """The connection of a session's client."""

    __slots__ = (
        "alias_limit",
        "aliases_out",
        "connect_options",
        "inbound",
        "info",
        "max_packet_size",
        "outbound",
        "receive_maximum",
        "session",
        "version",
        "was_open",
        "will_wanted",
        "writable",
    )

    def __init__(self) -> None:
        super().__init__()
        self.version = 4
        self.session: Session | None = None
        self.info: SessionInfo
        self.outbound: OutboundPort | None = None
        self.max_packet_size = 0
        """What the client takes, in bytes; 0 for any."""
        self.receive_maximum = 65535
        """The client's Receive Maximum."""
        self.inbound = 0
        """QoS 1 and 2 messages of the client that are not acknowledged to the end: what the broker's Receive Maximum bounds."""
        self.alias_limit = 0
        self.aliases_out: dict[str, int] | None = None
        """Topic aliases that the client was told; None where it wants none."""
        self.connect_options: ConnectOptions | None = None
        self.will_wanted = True
        self.was_open = False
        """The connection had got as far as CONNACK when it ended."""
        self.writable = False
        """Its socket is below the high-water mark."""

    @property
    @abstractmethod
    def open(self) -> bool:
        """CONNACK was sent, and the connection has not ended."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """The connection has ended."""

    @abstractmethod
    def disconnect(self, code: int, text: str) -> None:
        """Tell an MQTT 5 client why [MQTT-3.14.0-1], and close."""

    @abstractmethod
    def go_on(self) -> None:
        """The answer is there: process what waited."""

    def alias_for(self, topic: str) -> tuple[int, bool]:
        """(alias for the topic or 0, whether the client knows it already). The first topics get the aliases there are."""
        aliases = self.aliases_out
        if aliases is None:
            return 0, False
        alias = aliases.get(topic)
        if alias is not None:
            return alias, True
        if len(aliases) >= self.alias_limit:
            return 0, False
        alias = aliases[topic] = len(aliases) + 1
        return alias, False

    def forget_alias(self, topic: str) -> None:
        """The frame that would have told the client was not sent."""
        if self.aliases_out and self.aliases_out.get(topic) == len(self.aliases_out):
            del self.aliases_out[topic]
