"""Packets as plugins hear of them, between the socket and the connection.

amqtt's plugins may listen to every packet. Where one does, each connection gets an `Interceptor` around it that decodes both
directions once more; where none does, connections are as they were, and the hot path knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from amqtt.events import BrokerEvents, MQTTEvents

from broker.packets import Decoder, Property, Publish, each
from storage.records import Message

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.amqtt.plugin_host import PluginHost
    from broker.connection import Connection

_HEARD = (MQTTEvents.PACKET_RECEIVED, MQTTEvents.PACKET_SENT, BrokerEvents.MESSAGE_RECEIVED)


def intercepted(plugin_host: PluginHost, make: Callable[[str, str, str], Connection]) -> Callable[[str, str, str], Any]:
    """``make`` itself, or, where a plugin listens to packets, what makes the same connection with an interceptor."""
    if not any(plugin_host.listens(event) for event in _HEARD):
        return make
    return lambda listener, peer, certified: Interceptor(plugin_host, make(listener, peer, certified))


class Interceptor:
    """A connection with listeners: passes everything on, after it told the plugins' queue."""

    __slots__ = (
        "_aliases",
        "_connection",
        "_in",
        "_out",
        "_plugin_host",
        "connection_lost",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "write_failed",
    )

    def __init__(self, plugin_host: PluginHost, connection: Connection) -> None:
        self._plugin_host = plugin_host
        self._connection = connection
        self._in = Decoder("server")
        self._out = Decoder("client")
        self._aliases: dict[int, str] = {}
        self.connection_lost = connection.connection_lost
        self.eof_received = connection.eof_received
        self.pause_writing = connection.pause_writing
        self.resume_writing = connection.resume_writing
        self.write_failed = connection.write_failed

    @property
    def _info(self) -> SessionInfo | None:
        return getattr(self._connection, "info", None)  # there from authentication on

    def connection_made(self, transport: Any) -> None:
        self._connection.connection_made(InterceptedTransport(transport, self.sent))

    def data_received(self, data: bytes) -> None:
        if not self._connection.closed:
            for packet in each(self._in.feed(data)):
                self._plugin_host.packet_received(self._info, packet)
                if type(packet) is Publish:
                    self._published(packet)
        self._connection.data_received(data)

    def sent(self, data: bytes) -> None:
        """The connection wrote these bytes."""
        self._out.version = self._in.version
        for packet in self._out.feed(data):
            self._plugin_host.packet_sent(self._info, packet)

    def _published(self, packet: Publish) -> None:
        info = self._info
        topic = packet.topic
        alias = packet.properties.get(Property.TOPIC_ALIAS)
        if alias is not None:
            topic = topic or self._aliases.get(alias, "")
            self._aliases[alias] = topic
        if info is not None and topic:
            user, device = info.identity.user_key, info.client_id
            message = Message(0, topic, user, device, 0, packet.qos, packet.payload, packet.retain)
            self._plugin_host.message_received(info, message, packet.packet_id)


class InterceptedTransport:
    """A transport whose writes are overheard."""

    def __init__(self, transport: Any, sent: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._sent(data)
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        self.write(b"".join(list_of_data))
