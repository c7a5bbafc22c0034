"""The body of each packet type, parsed: everything after the fixed header, except for PUBLISH.

`read_body` takes the whole packet's bounds and gives a packet or raises a `ProtocolViolation`. PUBLISH is parsed by the
decoder's loop, where it is hot.

Over 300 lines: one table of packets, each with its reader and rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.packets import topics, wire
from broker.packets.codes import NO_LOCAL, MalformedPacket, PacketType, ProtocolError, ReasonCode, UnsupportedVersion
from broker.packets.model import (
    MQTT_3_1,
    MQTT_3_1_1,
    MQTT_5,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from broker.packets.properties import EMPTY, WILL, Properties, Property, decode_properties

_R = ReasonCode
_COMMON: Final = frozenset(
    {_R.UNSPECIFIED_ERROR, _R.IMPLEMENTATION_SPECIFIC_ERROR, _R.NOT_AUTHORIZED, _R.PACKET_IDENTIFIER_IN_USE, _R.QUOTA_EXCEEDED}
)
_RECEIVED: Final[frozenset[int]] = _COMMON | {
    _R.SUCCESS,
    _R.NO_MATCHING_SUBSCRIBERS,
    _R.TOPIC_NAME_INVALID,
    _R.PAYLOAD_FORMAT_INVALID,
}
_RELEASED: Final[frozenset[int]] = frozenset({_R.SUCCESS, _R.PACKET_IDENTIFIER_NOT_FOUND})
_SUBSCRIBED: Final[frozenset[int]] = _COMMON | {
    _R.GRANTED_QOS_0,
    _R.GRANTED_QOS_1,
    _R.GRANTED_QOS_2,
    _R.TOPIC_FILTER_INVALID,
    _R.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    _R.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
    _R.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
}
_UNSUBSCRIBED: Final[frozenset[int]] = (_COMMON - {_R.QUOTA_EXCEEDED}) | {
    _R.SUCCESS,
    _R.NO_SUBSCRIPTION_EXISTED,
    _R.TOPIC_FILTER_INVALID,
}
_REFUSALS: Final[frozenset[int]] = frozenset(range(0x80, 0x8B)) | {
    _R.BAD_AUTHENTICATION_METHOD,
    _R.TOPIC_NAME_INVALID,
    _R.PACKET_TOO_LARGE,
    _R.QUOTA_EXCEEDED,
    _R.PAYLOAD_FORMAT_INVALID,
    _R.RETAIN_NOT_SUPPORTED,
    _R.QOS_NOT_SUPPORTED,
    _R.USE_ANOTHER_SERVER,
    _R.SERVER_MOVED,
    _R.CONNECTION_RATE_EXCEEDED,
}
_CLIENT_LEAVES: Final[frozenset[int]] = frozenset(
    {
        _R.NORMAL_DISCONNECTION,
        _R.DISCONNECT_WITH_WILL,
        _R.UNSPECIFIED_ERROR,
        _R.MALFORMED_PACKET,
        _R.PROTOCOL_ERROR,
        _R.IMPLEMENTATION_SPECIFIC_ERROR,
        _R.BAD_AUTHENTICATION_METHOD,
        _R.TOPIC_NAME_INVALID,
        _R.RECEIVE_MAXIMUM_EXCEEDED,
        _R.TOPIC_ALIAS_INVALID,
        _R.PACKET_TOO_LARGE,
        _R.MESSAGE_RATE_TOO_HIGH,
        _R.QUOTA_EXCEEDED,
        _R.ADMINISTRATIVE_ACTION,
        _R.PAYLOAD_FORMAT_INVALID,
    }
)
_SERVER_LEAVES: Final[frozenset[int]] = (_CLIENT_LEAVES - {_R.DISCONNECT_WITH_WILL}) | {
    _R.NOT_AUTHORIZED,
    _R.SERVER_BUSY,
    _R.SERVER_SHUTTING_DOWN,
    _R.KEEP_ALIVE_TIMEOUT,
    _R.SESSION_TAKEN_OVER,
    _R.TOPIC_FILTER_INVALID,
    _R.RETAIN_NOT_SUPPORTED,
    _R.QOS_NOT_SUPPORTED,
    _R.USE_ANOTHER_SERVER,
    _R.SERVER_MOVED,
    _R.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    _R.CONNECTION_RATE_EXCEEDED,
    _R.MAXIMUM_CONNECT_TIME,
    _R.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
    _R.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
}
_CLIENT_AUTH: Final[frozenset[int]] = frozenset({_R.CONTINUE_AUTHENTICATION, _R.RE_AUTHENTICATE})
_SERVER_AUTH: Final[frozenset[int]] = frozenset({_R.SUCCESS, _R.CONTINUE_AUTHENTICATION})


def connect_version(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read protocol name and level; returns (level, next).

    Raises `UnsupportedVersion` for any level but those of 3.1, 3.1.1 and 5 [MQTT-3.1.2-2]. What does not call itself MQTT is
    told nothing [MQTT-3.1.2-1].
    """
    name, at = wire.read_binary(data, at, end)
    if name not in (b"MQTT", b"MQIsdp"):
        raise ProtocolError(f"protocol name {name[:16]!r} is not MQTT's")
    level, at = wire.read_u8(data, at, end)
    if name == b"MQTT" and level in (MQTT_3_1_1, MQTT_5):
        return level, at
    if name == b"MQIsdp" and level == MQTT_3_1:
        return level, at
    raise UnsupportedVersion(f"protocol {name.decode()} level {level} is not spoken here", level=level)


def read_connect(data: bytes, at: int, end: int, version: int) -> Connect:
    """The rest of a CONNECT, from its flags on."""
    flags, at = wire.read_u8(data, at, end)
    if flags & 1 and version != MQTT_3_1:  # 3.1 has the bit unused, not reserved
        raise MalformedPacket("reserved connect flag is 1")  # [MQTT-3.1.2-3]
    if flags & 0x04:
        if flags & 0x18 == 0x18:
            raise MalformedPacket("will QoS is 3")  # [MQTT-3.1.2-12], in 3.1.1 [MQTT-3.1.2-14]
    elif flags & 0x38:
        raise MalformedPacket("will QoS or retain without a will")  # [MQTT-3.1.2-11, -13]
    if flags & 0xC0 == 0x40 and version != MQTT_5:
        raise MalformedPacket("password without a user name")  # 3.1.1 [MQTT-3.1.2-22]
    keep_alive, at = wire.read_u16(data, at, end)
    properties, at = _properties(data, at, end, version, PacketType.CONNECT)
    client_id, at = wire.read_string(data, at, end)
    wire.check_identifier(client_id, "client identifier")
    will = None
    if flags & 0x04:
        will_properties, at = _properties(data, at, end, version, WILL)
        topic, at = wire.read_string(data, at, end)
        topics.validate_name(topic)
        payload, at = wire.read_binary(data, at, end)
        will = Will(topic, payload, flags >> 3 & 3, flags & 0x20 != 0, will_properties)
    username = password = None
    if flags & 0x80:
        username, at = wire.read_string(data, at, end)
        wire.check_identifier(username, "user name")
    if flags & 0x40:
        password, at = wire.read_binary(data, at, end)
    _finish(at, end, "CONNECT")
    return Connect(client_id, version, flags & 0x02 != 0, keep_alive, username, password, will, properties)


def _properties(data: bytes, at: int, end: int, version: int, where: int) -> tuple[Properties, int]:
    return decode_properties(data, at, end, where) if version == MQTT_5 else (EMPTY, at)


def _finish(at: int, end: int, name: str) -> None:
    if at != end:
        raise MalformedPacket(f"{end - at} bytes too many in {name}")


def _reason(code: int, allowed: frozenset[int], name: str) -> int:
    if code not in allowed:
        raise ProtocolError(f"reason code 0x{code:02X} does not belong in {name}")
    return code


def _packet_id(data: bytes, at: int, end: int) -> tuple[int, int]:
    packet_id, at = wire.read_u16(data, at, end)
    if not packet_id:
        raise ProtocolError("packet identifier is 0")  # [MQTT-2.2.1-3], in 3.1.1 [MQTT-2.3.1-1]
    return packet_id, at


def _connack(data: bytes, at: int, end: int, version: int, _: bool) -> ConnAck:
    flags, at = wire.read_u8(data, at, end)
    if flags > 1:
        raise MalformedPacket(f"connect acknowledge flags are 0x{flags:02X}")  # [MQTT-3.2.2-1]
    code, at = wire.read_u8(data, at, end)
    _reason(code, _REFUSALS | {0} if version == MQTT_5 else frozenset(range(6)), "CONNACK")
    if flags and code:
        raise ProtocolError("session present in a refusal")  # [MQTT-3.2.2-6], in 3.1.1 [MQTT-3.2.2-4]
    properties, at = _properties(data, at, end, version, PacketType.CONNACK)
    _finish(at, end, "CONNACK")
    return ConnAck(flags == 1, code, properties)


_Ack = PubAck | PubRec | PubRel | PubComp


def _ack(kind: type[_Ack], allowed: frozenset[int]) -> Callable[[bytes, int, int, int, bool], _Ack]:
    """A reader for PUBACK, PUBREC, PUBREL or PUBCOMP, which differ only in the codes they allow."""
    where, name = kind.type, kind.type.name

    def read(data: bytes, at: int, end: int, version: int, _: bool) -> _Ack:
        packet_id, at = _packet_id(data, at, end)
        if at == end:
            return kind(packet_id)
        if version != MQTT_5:
            raise MalformedPacket(f"{end - at} bytes too many in {name}")
        code = _reason(data[at], allowed, name)
        at += 1
        if at == end:  # 3.4.2.2.1: no property length means no properties
            return kind(packet_id, code)
        properties, at = decode_properties(data, at, end, where)
        _finish(at, end, name)
        return kind(packet_id, code, properties)

    return read


def _subscribe(data: bytes, at: int, end: int, version: int, _: bool) -> Subscribe:
    packet_id, at = _packet_id(data, at, end)
    properties, at = _properties(data, at, end, version, PacketType.SUBSCRIBE)
    if at == end:
        raise ProtocolError("SUBSCRIBE without a topic filter")  # [MQTT-3.8.3-2], in 3.1.1 [MQTT-3.8.3-3]
    subscriptions = []
    while at < end:
        filter, at = _filter(data, at, end, version)
        options, at = wire.read_u8(data, at, end)
        _check_options(filter, options, version)
        subscriptions.append((filter, options))
    return Subscribe(packet_id, subscriptions, properties)


def _filter(data: bytes, at: int, end: int, version: int) -> tuple[str, int]:
    filter, at = wire.read_string(data, at, end)
    if version != MQTT_5 or topics.parse_share(filter) is None:  # which validates what is shared
        topics.validate_filter(filter)
    return filter, at


def _check_options(filter: str, options: int, version: int) -> None:
    if version != MQTT_5:
        if options > 2:
            raise MalformedPacket(f"requested QoS byte is 0x{options:02X}, must be 0, 1 or 2")  # 3.1.1 [MQTT-3.8.3-4]
        return
    if options & 0xC0:
        raise MalformedPacket(f"reserved bits are set in subscription options 0x{options:02X}")  # [MQTT-3.8.3-5]
    if options & 0x03 == 0x03 or options & 0x30 == 0x30:  # 3.8.3.1
        raise ProtocolError(f"QoS or retain handling is 3 in subscription options 0x{options:02X}")
    if options & NO_LOCAL and filter.startswith(topics.SHARE):
        raise ProtocolError("no local on a shared subscription")  # [MQTT-3.8.3-4]


def _suback(data: bytes, at: int, end: int, version: int, _: bool) -> SubAck:
    packet_id, at = _packet_id(data, at, end)
    properties, at = _properties(data, at, end, version, PacketType.SUBACK)
    allowed = _SUBSCRIBED if version == MQTT_5 else frozenset((0, 1, 2, 0x80))  # 3.1.1 [MQTT-3.9.3-2]
    reasons = [_reason(code, allowed, "SUBACK") for code in data[at:end]]
    if not reasons:
        raise MalformedPacket("SUBACK without a reason code")
    return SubAck(packet_id, reasons, properties)


def _unsubscribe(data: bytes, at: int, end: int, version: int, _: bool) -> Unsubscribe:
    packet_id, at = _packet_id(data, at, end)
    properties, at = _properties(data, at, end, version, PacketType.UNSUBSCRIBE)
    if at == end:
        raise ProtocolError("UNSUBSCRIBE without a topic filter")  # [MQTT-3.10.3-2]
    filters = []
    while at < end:
        filter, at = _filter(data, at, end, version)
        filters.append(filter)
    return Unsubscribe(packet_id, filters, properties)


def _unsuback(data: bytes, at: int, end: int, version: int, _: bool) -> UnsubAck:
    packet_id, at = _packet_id(data, at, end)
    if version != MQTT_5:
        _finish(at, end, "UNSUBACK")
        return UnsubAck(packet_id, [])
    properties, at = decode_properties(data, at, end, PacketType.UNSUBACK)
    reasons = [_reason(code, _UNSUBSCRIBED, "UNSUBACK") for code in data[at:end]]
    if not reasons:
        raise MalformedPacket("UNSUBACK without a reason code")
    return UnsubAck(packet_id, reasons, properties)


def _pingreq(_data: bytes, at: int, end: int, _version: int, _server: bool) -> PingReq:
    _finish(at, end, "PINGREQ")
    return PingReq()


def _pingresp(_data: bytes, at: int, end: int, _version: int, _server: bool) -> PingResp:
    _finish(at, end, "PINGRESP")
    return PingResp()


def _disconnect(data: bytes, at: int, end: int, version: int, from_client: bool) -> Disconnect:
    if at == end:
        return Disconnect()
    if version != MQTT_5:
        raise MalformedPacket(f"{end - at} bytes too many in DISCONNECT")
    code = _reason(data[at], _CLIENT_LEAVES if from_client else _SERVER_LEAVES, "DISCONNECT")
    at += 1
    if at == end:  # 3.14.2.2.1
        return Disconnect(code)
    properties, at = decode_properties(data, at, end, PacketType.DISCONNECT)
    _finish(at, end, "DISCONNECT")
    if not from_client and Property.SESSION_EXPIRY in properties:
        raise ProtocolError("session expiry in a DISCONNECT of the server")  # [MQTT-3.14.2-2]
    return Disconnect(code, properties)


def _auth(data: bytes, at: int, end: int, _version: int, from_client: bool) -> Auth:
    allowed = _CLIENT_AUTH if from_client else _SERVER_AUTH
    if at == end:  # 3.15.2.1: short for success
        return Auth(_reason(0, allowed, "AUTH"))
    code = _reason(data[at], allowed, "AUTH")
    properties, at = decode_properties(data, at + 1, end, PacketType.AUTH)
    _finish(at, end, "AUTH")
    if Property.AUTHENTICATION_METHOD not in properties:  # 3.15.2.2.2
        raise ProtocolError("AUTH without an authentication method")
    return Auth(code, properties)


READERS: Final[dict[int, Callable[[bytes, int, int, int, bool], Packet]]] = {
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _ack(PubAck, _RECEIVED),
    PacketType.PUBREC: _ack(PubRec, _RECEIVED),
    PacketType.PUBREL: _ack(PubRel, _RELEASED),
    PacketType.PUBCOMP: _ack(PubComp, _RELEASED),
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _pingreq,
    PacketType.PINGRESP: _pingresp,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
"""Reader per packet type: (data, start of the body, end, protocol level, sent by a client) to packet."""
