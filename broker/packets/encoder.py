"""Packets to bytes.

What the version does not have is left out: 3.1 and 3.1.1 drop properties, and reason codes where they have none. MQTT 5 uses
the short forms of acks, DISCONNECT and AUTH wherever they say the same. The caller answers for the values: a packet that the
decoder would refuse is encoded all the same, except where a value does not fit its field (ValueError).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from broker.packets import wire
from broker.packets.codes import PacketType, connect_return_code
from broker.packets.model import (
    MQTT_5,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubAcks,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from broker.packets.properties import Properties, encode_properties, encode_property_body

PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"

_ACK_HEADS: Final[dict[int, bytes]] = {
    PacketType.PUBACK: b"\x40\x02",
    PacketType.PUBREC: b"\x50\x02",
    PacketType.PUBREL: b"\x62\x02",
    PacketType.PUBCOMP: b"\x70\x02",
}

_BYTES: Final = wire.BYTES  # a module's own is no look-up in the compiled core
_PUBACKS: Final = [b"\x40\x02" + byte for byte in _BYTES]
"""All but the last byte."""


def encode(packet: Packet, version: int) -> bytes:
    """The packet's bytes in ``version`` (3, 4 or 5; a Connect has its own)."""
    return _ENCODERS[type(packet)](packet, version)


def ack_frame(type: int, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP with reason success and no properties: the same bytes in every version."""
    return _ACK_HEADS[type] + packet_id.to_bytes(2, "big")


def puback_frame(packet_id: int) -> bytes:
    """The same of a PUBACK, which is written for each message of QoS 1."""
    return _PUBACKS[packet_id >> 8] + _BYTES[packet_id & 0xFF]


def publish_parts(topic: str, payload: bytes, flags: int, properties: bytes | None) -> tuple[bytes, bytes]:
    """A PUBLISH as (head, tail), to be shared by all its receivers.

    The frame is head + two bytes of packet identifier + tail with QoS 1 and 2, head + tail with QoS 0. ``flags`` are
    the low four bits of the first byte (dup 8, QoS 2 and 4, retain 1), ``properties`` the property bytes without their length:
    b"" for none, None for 3.1.1, which has no such field.
    """
    name = topic.encode()
    size = len(name)
    if size > 0xFFFF:
        raise ValueError(f"topic has {size} bytes, at most 65535 fit")
    if properties is None:
        tail = payload
    elif properties:
        tail = wire.varint(len(properties)) + properties + payload
    else:
        tail = b"\0" + payload
    length = size + len(tail) + (4 if flags & 6 else 2)
    # The two common sizes of remaining length are written out: that halves the cost of the head.
    if length < 0x80:
        return ((0x30 | flags) << 24 | length << 16 | size).to_bytes(4, "big") + name, tail
    if length < 0x4000:
        head = (0x30 | flags) << 32 | (length & 0x7F | 0x80) << 24 | (length >> 7) << 16 | size
        return head.to_bytes(5, "big") + name, tail
    return bytes((0x30 | flags,)) + wire.varint(length) + bytes((size >> 8, size & 0xFF)) + name, tail


def _frame(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + wire.varint(len(body)) + body


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _properties(props: Properties, version: int) -> bytes:
    return encode_properties(props) if version == MQTT_5 else b""


def _connect(packet: Connect, _: int) -> bytes:
    version, will = packet.version, packet.will
    flags = packet.clean_start << 1
    payload = [wire.string(packet.client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        payload += (_properties(will.properties, version), wire.string(will.topic), wire.binary(will.payload))
    if packet.username is not None:
        flags |= 0x80
        payload.append(wire.string(packet.username))
    if packet.password is not None:
        flags |= 0x40
        payload.append(wire.binary(packet.password))
    name = wire.string("MQIsdp" if version == 3 else "MQTT")
    head = name + bytes((version, flags)) + _u16(packet.keep_alive)
    return _frame(0x10, head, _properties(packet.properties, version), *payload)


def _connack(packet: ConnAck, version: int) -> bytes:
    reason = packet.reason if version == MQTT_5 else connect_return_code(packet.reason)
    # A refused client has no session: [MQTT-3.2.2-6], in 3.1.1 [MQTT-3.2.2-4].
    present = packet.session_present and not reason
    if version != MQTT_5:
        return b"\x20\x02" + _BYTES[present] + _BYTES[reason]
    return _frame(0x20, bytes((present, reason)), encode_properties(packet.properties))


def _publish(packet: Publish, version: int) -> bytes:
    flags = packet.dup << 3 | packet.qos << 1 | packet.retain
    properties = encode_property_body(packet.properties) if version == MQTT_5 else None
    head, tail = publish_parts(packet.topic, packet.payload, flags, properties)
    return head + _u16(packet.packet_id) + tail if packet.qos else head + tail


def _ack(packet: PubAck | PubRec | PubRel | PubComp, version: int) -> bytes:
    head = _ACK_HEADS[packet.type]
    if version != MQTT_5 or not (packet.reason or packet.properties):
        return head + _u16(packet.packet_id)
    more = encode_properties(packet.properties) if packet.properties else b""
    return _frame(head[0], _u16(packet.packet_id), bytes((packet.reason,)), more)


def _subscribe(packet: Subscribe, version: int) -> bytes:
    entries = [wire.string(filter) + bytes((options,)) for filter, options in packet.subscriptions]
    return _frame(0x82, _u16(packet.packet_id), _properties(packet.properties, version), *entries)


def _suback(packet: SubAck, version: int) -> bytes:
    # 3.1.1 has one failure code: [MQTT-3.9.3-2].
    reasons = packet.reasons if version == MQTT_5 else [min(reason, 0x80) for reason in packet.reasons]
    return _frame(0x90, _u16(packet.packet_id), _properties(packet.properties, version), bytes(reasons))


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    filters = [wire.string(filter) for filter in packet.filters]
    return _frame(0xA2, _u16(packet.packet_id), _properties(packet.properties, version), *filters)


def _unsuback(packet: UnsubAck, version: int) -> bytes:
    if version != MQTT_5:
        return _frame(0xB0, _u16(packet.packet_id))
    return _frame(0xB0, _u16(packet.packet_id), encode_properties(packet.properties), bytes(packet.reasons))


def _closing(packet: Disconnect | Auth, version: int) -> bytes:
    first = packet.type << 4
    if version != MQTT_5:
        if packet.type is PacketType.AUTH:
            raise ValueError(f"AUTH does not exist in protocol level {version}")
        return _frame(first)
    if not (packet.reason or packet.properties):
        return _frame(first)
    if packet.type is PacketType.DISCONNECT and not packet.properties:  # 3.14.2.2.1; AUTH has no such form
        return _frame(first, bytes((packet.reason,)))
    return _frame(first, bytes((packet.reason,)), encode_properties(packet.properties))


_ENCODERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    Connect: _connect,
    ConnAck: _connack,
    Publish: _publish,
    PubAck: _ack,
    PubAcks: lambda packet, _version: packet.frames,
    PubRec: _ack,
    PubRel: _ack,
    PubComp: _ack,
    Subscribe: _subscribe,
    SubAck: _suback,
    Unsubscribe: _unsubscribe,
    UnsubAck: _unsuback,
    PingReq: lambda _packet, _version: PINGREQ,
    PingResp: lambda _packet, _version: PINGRESP,
    Disconnect: _closing,
    Auth: _closing,
}
