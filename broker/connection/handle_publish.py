"""PUBLISH from clients: from the packet to the pipeline, and from the commit to its ack (`broker.publish_path`: all the way).

`received` resolves the topic alias, recognises a QoS 2 message that came before, asks the ACL and submits. `Inbound.stored`
then says what came of it.

Over 300 lines: the way of one packet is told in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from mypy_extensions import mypyc_attr

from broker.access import DELAYED, PUBLISH
from broker.hooks import REQUEST_TOPIC, Refusal, Request
from broker.packets import (
    EMPTY,
    FORWARDED,
    PacketType,
    Properties,
    Property,
    PubAck,
    Publish,
    PubRec,
    ReasonCode,
    TopicAliasInvalid,
    ack_frame,
    encode,
    encode_property_body,
    puback_frame,
    shown,
)
from broker.publication import Acks, Origin, Outgoing, Publication
from storage.errors import MessageRefused
from storage.records import EXPIRES_AT_ONCE

if TYPE_CHECKING:
    from broker.config import Mqtt
    from broker.connection.connection import Connection
    from broker.sessions import Session

_EMPTY: Final = EMPTY  # a module's own is no look-up in the compiled core
MESSAGE_ID = "message-id"
"""The user property by which a publisher names its message, so that sending it again stores it once."""
_NOT_FOR_SUBSCRIBERS = (REQUEST_TOPIC, DELAYED)
"""That nobody is subscribed to these is no news."""


class NotAuthorized(Refusal):
    """The ACL denies the topic."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ReasonCode.NOT_AUTHORIZED)


@mypyc_attr(acyclic=True)
class Inbound(Origin):
    """Who waits for a published message's ack: the origin of a `Publication` that came from a client."""

    __slots__ = ("connection", "packet_id", "qos", "session")

    def __init__(self, connection: Connection, session: Session, qos: int, packet_id: int) -> None:
        self.connection = connection
        self.session = session
        self.qos = qos
        self.packet_id = packet_id

    def stored(self, publication: Publication, acks: Acks) -> None:
        """The group is durable: add this message's ack to its connection's frames, or act on its refusal."""
        self.connection.stored()
        connection = self.waiting
        if self.qos == 2:
            if publication.error is None:
                if self.packet_id in self.session.received:  # else it was released before we asked for that
                    self.session.received[self.packet_id] = None
            else:
                self.session.received.pop(self.packet_id, None)
        if connection.closed:
            return
        if publication.error is not None:
            _write_ahead(connection)
            self._refused(connection, publication.message.topic, publication.error)
        elif self.qos:
            if connection.version >= 5:
                acks.add(connection, _ack_v5(connection, publication, self.qos, self.packet_id))
            elif self.qos == 1:
                acks.add(connection, puback_frame(self.packet_id))
            else:
                acks.add(connection, ack_frame(PacketType.PUBREC, self.packet_id))
            if self.qos == 1:
                connection.inbound_finished()

    @property
    def waiting(self) -> Connection:
        """Who waits for the ack: of a QoS 2 message whoever sent it last, which after a reconnect is another connection."""
        found = self.session.received.get(self.packet_id) if self.qos == 2 else None
        return self.connection if found is None else cast("Connection", found)

    def _refused(self, connection: Connection, topic: str, error: Exception) -> None:
        """Say so with a reason code. Version 3.1.1 has none: a denied topic is acknowledged and goes nowhere
        [MQTT-3.3.5-2], and for anything else the connection is closed, so that the client keeps the message. The log
        has why, as few clients show a code, at QoS 0 there is none, and words are only for those that ask for them."""
        if self.qos:
            connection.inbound_finished()
        if connection.version >= 5:
            if not isinstance(error, NotAuthorized):  # which is logged where it is decided
                connection.server.access.log_refused_message(connection.info, topic, str(error))
            if self.qos:
                ack = PubAck if self.qos == 1 else PubRec
                connection.send(ack(self.packet_id, refusal_code(error), connection.reason(str(error))))
        elif not isinstance(error, NotAuthorized):
            connection.close(f"message refused: {error}")
        elif self.qos:
            kind = PacketType.PUBACK if self.qos == 1 else PacketType.PUBREC
            connection.write_packet(ack_frame(kind, self.packet_id))


@mypyc_attr(acyclic=True)
class Asked(Inbound):
    """The same for a request to the broker, which is answered once what its device published before is durable."""

    __slots__ = ("request",)

    def __init__(self, connection: Connection, session: Session, packet: Publish) -> None:
        super().__init__(connection, session, packet.qos, packet.packet_id)
        self.request = Request(
            session.key,
            connection.info,
            packet.payload,
            packet.qos,
            packet.properties.get(Property.RESPONSE_TOPIC, ""),
            packet.properties.get(Property.CORRELATION_DATA, b""),
        )

    def stored(self, publication: Publication, acks: Acks) -> None:
        super().stored(publication, acks)
        plugin = self.connection.server.requests
        if publication.error is None and plugin is not None:
            plugin.request(self.request)


def _write_ahead(connection: Connection) -> None:
    """Acks keep the order of their messages: what came before a refused one is told before it [MQTT-4.6.0-2, MQTT-4.6.0-3]."""
    frames = connection.take_acks()
    if frames:
        connection.server.counters.control_sent += len(frames)
        connection.write_frames(frames)


def _ack_v5(connection: Connection, publication: Publication, qos: int, packet_id: int) -> bytes:
    """PUBACK or PUBREC of MQTT 5: says whether anybody is subscribed, and where the message stands if asked to."""
    kind = PacketType.PUBACK if qos == 1 else PacketType.PUBREC
    options = connection.connect_options
    if publication.matched and not publication.idempotency_key and (options is None or not options.ack_properties):
        return ack_frame(kind, packet_id)
    reason = ReasonCode.SUCCESS
    topic = publication.message.topic
    nobody = publication.original is None and not publication.matched
    cluster = connection.server.cluster
    if nobody and not topic.startswith(_NOT_FOR_SUBSCRIBERS) and (cluster is None or not cluster.listens(topic)):
        reason = ReasonCode.NO_MATCHING_SUBSCRIBERS
    properties: Properties = {}
    declined = options is not None and options.problem_information is False  # then PUBACK has no properties [MQTT-3.1.2-29]
    if not declined and (publication.idempotency_key or (options is not None and options.ack_properties)):
        message_id, seq = publication.original or (publication.message.id, publication.message.seq)
        pairs = [("message-id", f"{message_id:016x}"), ("seq", str(seq))]
        if publication.original is not None:
            pairs.append(("duplicate", "true"))
        properties = {Property.USER_PROPERTY: pairs}
    if not properties and not reason:
        return ack_frame(kind, packet_id)
    return encode((PubAck if qos == 1 else PubRec)(packet_id, reason, properties), 5)


def refusal_code(error: Exception) -> ReasonCode:
    """The reason code that tells a publisher why its message was not stored: 0x83 where it never can be."""
    if isinstance(error, Refusal):
        return error.code
    never = isinstance(error, MessageRefused)
    return ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR if never else ReasonCode.UNSPECIFIED_ERROR


def unacceptable(limits: Mqtt, topic: str, retain: bool) -> tuple[ReasonCode, str] | None:
    """Why this server takes no message, or will, like this one; None where it does."""
    deepest = limits.max_topic_levels
    if len(topic) >= deepest and topic.count("/") >= deepest:
        return ReasonCode.TOPIC_NAME_INVALID, f"topic {shown(topic)} has more than {deepest} levels"
    if retain and not limits.retain_available:  # [MQTT-3.2.2-13]
        return ReasonCode.RETAIN_NOT_SUPPORTED, "retained messages are turned off"
    return None


def received(connection: Connection, packet: Publish) -> None:
    """Take a message into the pipeline."""
    server = connection.server
    server.counters.received(packet.qos, len(packet.payload))
    session = connection.session
    assert session is not None
    if packet.properties is not _EMPTY and Property.TOPIC_ALIAS in packet.properties and not _resolve_alias(connection, packet):
        return
    if packet.retain or len(packet.topic) >= server.max_topic_levels:
        problem = unacceptable(server.settings.mqtt, packet.topic, packet.retain)
        if problem:
            connection.disconnect(*problem)
            return
    qos = packet.qos
    if qos:
        if qos == 2 and packet.packet_id in session.received:
            _again(connection, session, packet.packet_id)
            return
        if connection.version >= 5 and connection.inbound >= server.receive_maximum:
            server.counters.limit_receive_maximum += 1
            connection.disconnect(
                ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, f"more than {connection.inbound} unacknowledged messages"
            )
            return
        connection.inbound += 1
    error = None
    if packet.topic.startswith("$") and (why := server.access.closed(packet.topic)):
        if packet.topic == REQUEST_TOPIC and server.requests is not None:
            _submit_request(connection, session, packet)
            return
        error = NotAuthorized(f"topic {shown(packet.topic)} {why}")
    elif not server.openness.open:
        allowed = server.access.cached(connection.info, PUBLISH, packet.topic)
        if allowed is None:
            connection.run(_ask(connection, packet))
            return
        if not allowed:
            error = NotAuthorized(f"publishing to {shown(packet.topic)} is not allowed")
    _submit(connection, session, packet, error)


async def _ask(connection: Connection, packet: Publish) -> None:
    allowed = await connection.server.access.allowed(connection.info, PUBLISH, packet.topic)
    if connection.closed or connection.session is None:
        return
    error = None if allowed else NotAuthorized(f"publishing to {shown(packet.topic)} is not allowed")
    _submit(connection, connection.session, packet, error)
    connection.go_on()


def _submit(connection: Connection, session: Session, packet: Publish, error: Exception | None) -> None:
    server = connection.server
    qos = packet.qos
    message = Outgoing(packet.topic, session.key.user, session.key.client_id, qos, packet.payload, packet.retain)
    publication = Publication(message, Inbound(connection, session, qos, packet.packet_id), True, packet.retain)
    if packet.properties is not _EMPTY:
        _take_properties(connection, publication, packet.properties)
    if session.inbox:  # it is durable
        publication.epoch = session.epoch
    if qos == 2:
        session.receive(packet.packet_id, connection)
        if session.durable:
            publication.received = (session.key, packet.packet_id)
    if error is not None:
        server.counters.acl_denied += 1
        why = server.access.closed(packet.topic)
        server.access.log_refusal(connection.info, PUBLISH, packet.topic, why and f"it {why}")
        publication.error = error
    if server.spans is not None:
        server.spans.received(publication, packet.properties.get(Property.USER_PROPERTY, ()))
    connection.unstored += 1
    server.pipeline.submit(publication)


def _submit_request(connection: Connection, session: Session, packet: Publish) -> None:
    """A request takes its place among the messages and is acknowledged as they are, but stored nowhere, and given to nobody."""
    message = Outgoing(packet.topic, session.key.user, session.key.client_id, packet.qos, packet.payload)
    publication = Publication(message, Asked(connection, session, packet), store=False)
    if session.inbox:
        publication.epoch = session.epoch
    if packet.qos == 2:
        session.receive(packet.packet_id, connection)
        if session.durable:
            publication.received = (session.key, packet.packet_id)
    connection.unstored += 1
    connection.server.pipeline.submit(publication)


def _take_properties(connection: Connection, publication: Publication, properties: Properties) -> None:
    message = publication.message
    now = connection.server.time.now()
    forwarded: Properties = {key: properties[key] for key in FORWARDED if key in properties}
    if forwarded:
        message.properties = encode_property_body(forwarded)
    if Property.MESSAGE_EXPIRY in properties:
        interval = properties[Property.MESSAGE_EXPIRY]
        message.expires = now + interval * 1000 if interval else EXPIRES_AT_ONCE
    for name, value in properties.get(Property.USER_PROPERTY, ()):
        if name == MESSAGE_ID:
            publication.idempotency_key = value
            publication.idempotency_at = now
            publication.idempotency_until = now + int(connection.server.settings.mqtt.idempotency_window * 1000)
            break


def _resolve_alias(connection: Connection, packet: Publish) -> bool:
    """Replace the alias by its topic, or learn it. False where the connection had to be closed [MQTT-3.3.2-9]."""
    alias = packet.properties[Property.TOPIC_ALIAS]
    if alias > connection.server.settings.mqtt.topic_alias_maximum:
        violation = TopicAliasInvalid(f"topic alias {alias} is above the maximum")
        connection.disconnect(violation.code, violation.text)
        return False
    if connection.aliases is None:
        connection.aliases = {}
    if packet.topic:
        connection.aliases[alias] = packet.topic
    elif alias in connection.aliases:
        packet.topic = connection.aliases[alias]
    else:
        connection.disconnect(ReasonCode.PROTOCOL_ERROR, f"topic alias {alias} was never set")
        return False
    return True


def _again(connection: Connection, session: Session, packet_id: int) -> None:
    """A QoS 2 message that came before [MQTT-4.3.3-10]: acknowledge it if it is stored, else when it will be."""
    if session.received[packet_id] is None:
        connection.write_packet(ack_frame(PacketType.PUBREC, packet_id))
    else:
        session.receive(packet_id, connection)
