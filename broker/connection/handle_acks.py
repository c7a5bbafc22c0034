"""PUBACK, PUBREC, PUBREL and PUBCOMP from clients.

- An acknowledgement for an identifier that has no message changes nothing; MQTT 5 names it in the answer.
- One that is not the next step of its message (PUBREC for QoS 1, PUBCOMP before PUBREC) is a violation: the connection is
  closed [3.1.1 MQTT-4.8.0-1, 5 4.13.2], and the message comes again.
- PUBREL is answered once forgetting the identifier is durable (law 1), also where nothing was to forget [MQTT-4.3.3-11].
  On a session that goes on this is a success: it is the PUBREL whose PUBCOMP was lost (5 3.7.2.1: no error during recovery),
  and stock clients report any other code as a message that failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.packets import PacketType, PubAck, PubAcks, PubComp, PubRec, PubRel, ReasonCode, ack_frame
from broker.pipeline import Step
from storage.records import Operation, Release

if TYPE_CHECKING:
    from broker.connection.connection import Connection
    from broker.sessions import Session


def puback(connection: Connection, packet: PubAck) -> None:
    """QoS 1 delivered; whatever the reason code, the message is not sent again."""
    session = connection.session
    assert session is not None
    slot = session.window.acknowledge(packet.packet_id)
    if slot is None:
        _check_unknown(connection, session, packet.packet_id, packet.type)
    elif connection.outbound is not None:
        connection.outbound.finished(slot)


def pubacks(connection: Connection, packet: PubAcks) -> None:
    """The same for many. Of those of the device's inbox the last one says that the offset may have moved."""
    session, outbound, frames = connection.session, connection.outbound, packet.frames
    assert session is not None
    assert outbound is not None
    connection.server.counters.messages_received += len(packet) - 1  # it was counted as one
    window, last = session.window, None
    for at in range(2, len(frames), 4):
        packet_id = frames[at] << 8 | frames[at + 1]
        slot = window.acknowledge(packet_id)
        if slot is None:
            if not _check_unknown(connection, session, packet_id, packet.type):
                return
        elif slot.timeline:
            outbound.finished(slot)
        else:
            last = slot
    if last is not None:
        outbound.finished(last)


def _check_unknown(connection: Connection, session: Session, packet_id: int, kind: PacketType) -> bool:
    """Whether there is no such message; where there is one that awaits something else, the connection is closed."""
    if session.window.find(packet_id) is None:
        return True
    connection.server.counters.protocol_errors += 1
    connection.disconnect(ReasonCode.PROTOCOL_ERROR, f"message {packet_id} does not await {kind.name}")
    return False


def pubrec(connection: Connection, packet: PubRec) -> None:
    """QoS 2 received: release it; an error ends the exchange [MQTT-4.3.3-4]."""
    session, outbound = connection.session, connection.outbound
    assert session is not None
    assert outbound is not None
    slot = session.window.release(packet.packet_id)
    if slot is None and not _check_unknown(connection, session, packet.packet_id, packet.type):
        return
    if packet.reason >= 0x80:
        if slot is not None:
            session.window.drop(packet.packet_id)
            outbound.finished(slot)
            outbound.pump()
    elif slot is not None:
        outbound.pubrel(slot)
    elif connection.version >= 5:
        connection.send(PubRel(packet.packet_id, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND))
    else:
        connection.write_packet(ack_frame(PacketType.PUBREL, packet.packet_id))


def pubcomp(connection: Connection, packet: PubComp) -> None:
    """QoS 2 done."""
    session, outbound = connection.session, connection.outbound
    assert session is not None
    assert outbound is not None
    slot = session.window.complete(packet.packet_id)
    if slot is None:
        _check_unknown(connection, session, packet.packet_id, packet.type)
        return
    outbound.finished(slot)
    outbound.pump()


def pubrel(connection: Connection, packet: PubRel) -> None:
    """The client released its QoS 2 message: forget the identifier, and say so."""
    session = connection.session
    assert session is not None
    if packet.packet_id not in session.received:
        if connection.version >= 5 and not connection.resumed:
            connection.send(PubComp(packet.packet_id, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND))
        else:
            connection.write_packet(ack_frame(PacketType.PUBCOMP, packet.packet_id))
        return
    connection.server.pipeline.submit(ReleaseStep(connection, session, packet.packet_id))


class ReleaseStep(Step):
    """Forgets a received packet identifier, and then sends PUBCOMP."""

    __slots__ = ("_connection", "_packet_id", "_session")

    def __init__(self, connection: Connection, session: Session, packet_id: int) -> None:
        self._connection = connection
        self._session = session
        self._packet_id = packet_id

    def apply(self) -> list[Operation]:
        self._session.received.pop(self._packet_id, None)
        return [Release(self._session.key, self._packet_id)] if self._session.durable else []

    def done(self) -> None:
        connection = self._connection
        if not connection.closed:
            connection.write_packet(ack_frame(PacketType.PUBCOMP, self._packet_id))
            connection.inbound_finished()
