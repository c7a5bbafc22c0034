"""The properties of MQTT 5 packets (2.2.2): which exist, where each belongs, and what values it may have.

- An identifier that is unknown, or does not belong to its packet, is malformed (2.2.2.2); so is a value of the wrong type.
- A property given twice is a protocol error, except User Property anywhere, and Subscription Identifier in PUBLISH (3.3.2.3.8).
- A value outside its range is a protocol error, except Topic Alias 0, which has a code of its own [MQTT-3.3.2-8].
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NoReturn

from broker.packets import wire
from broker.packets.codes import MalformedPacket, PacketType, ProtocolError, TopicAliasInvalid

Properties = dict[int, Any]
"""Property to value: int, str or bytes by its type; a list of (name, value) for User Property; a list of int for the
Subscription Identifier of a PUBLISH."""


class Property(IntEnum):
    """Property identifiers (2.2.2.2)."""

    PAYLOAD_FORMAT = 1
    MESSAGE_EXPIRY = 2
    CONTENT_TYPE = 3
    RESPONSE_TOPIC = 8
    CORRELATION_DATA = 9
    SUBSCRIPTION_IDENTIFIER = 11
    SESSION_EXPIRY = 17
    ASSIGNED_CLIENT_ID = 18
    SERVER_KEEP_ALIVE = 19
    AUTHENTICATION_METHOD = 21
    AUTHENTICATION_DATA = 22
    REQUEST_PROBLEM_INFORMATION = 23
    WILL_DELAY = 24
    REQUEST_RESPONSE_INFORMATION = 25
    RESPONSE_INFORMATION = 26
    SERVER_REFERENCE = 28
    REASON_STRING = 31
    RECEIVE_MAXIMUM = 33
    TOPIC_ALIAS_MAXIMUM = 34
    TOPIC_ALIAS = 35
    MAXIMUM_QOS = 36
    RETAIN_AVAILABLE = 37
    USER_PROPERTY = 38
    MAXIMUM_PACKET_SIZE = 39
    WILDCARD_SUBSCRIPTION_AVAILABLE = 40
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 41
    SHARED_SUBSCRIPTION_AVAILABLE = 42


class _NoProperties(Properties):
    """An empty mapping that stays empty, because every packet without properties shares it."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the shared empty properties cannot be changed; start from a dict of your own")

    def __hash__(self) -> int:  # type: ignore[override]  # hashable because it cannot change; a dataclass default must be
        return 0

    __setitem__ = __ior__ = update = setdefault = _refuse


EMPTY: Final[Properties] = _NoProperties()

FORWARDED: Final = (
    Property.PAYLOAD_FORMAT,
    Property.CONTENT_TYPE,
    Property.RESPONSE_TOPIC,
    Property.CORRELATION_DATA,
    Property.USER_PROPERTY,
)
"""The properties that go with the message to its receivers, unaltered and in order [MQTT-3.3.2-15 to 18]."""

WILL: Final = 0
"""Stands for the will's properties, inside CONNECT, where a packet type is asked for."""

_BYTE, _U16, _U32, _VARINT, _STRING, _BINARY, _PAIR = range(7)

_KINDS: Final[dict[Property, int]] = {
    Property.PAYLOAD_FORMAT: _BYTE,
    Property.MESSAGE_EXPIRY: _U32,
    Property.CONTENT_TYPE: _STRING,
    Property.RESPONSE_TOPIC: _STRING,
    Property.CORRELATION_DATA: _BINARY,
    Property.SUBSCRIPTION_IDENTIFIER: _VARINT,
    Property.SESSION_EXPIRY: _U32,
    Property.ASSIGNED_CLIENT_ID: _STRING,
    Property.SERVER_KEEP_ALIVE: _U16,
    Property.AUTHENTICATION_METHOD: _STRING,
    Property.AUTHENTICATION_DATA: _BINARY,
    Property.REQUEST_PROBLEM_INFORMATION: _BYTE,
    Property.WILL_DELAY: _U32,
    Property.REQUEST_RESPONSE_INFORMATION: _BYTE,
    Property.RESPONSE_INFORMATION: _STRING,
    Property.SERVER_REFERENCE: _STRING,
    Property.REASON_STRING: _STRING,
    Property.RECEIVE_MAXIMUM: _U16,
    Property.TOPIC_ALIAS_MAXIMUM: _U16,
    Property.TOPIC_ALIAS: _U16,
    Property.MAXIMUM_QOS: _BYTE,
    Property.RETAIN_AVAILABLE: _BYTE,
    Property.USER_PROPERTY: _PAIR,
    Property.MAXIMUM_PACKET_SIZE: _U32,
    Property.WILDCARD_SUBSCRIPTION_AVAILABLE: _BYTE,
    Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE: _BYTE,
    Property.SHARED_SUBSCRIPTION_AVAILABLE: _BYTE,
}

_NOT_ZERO: Final = frozenset(
    {Property.RECEIVE_MAXIMUM, Property.MAXIMUM_PACKET_SIZE, Property.SUBSCRIPTION_IDENTIFIER, Property.TOPIC_ALIAS}
)
"""3.1.2.11.3, 3.1.2.11.4, 3.8.2.1.2, [MQTT-3.3.2-8]. Every property that is one byte must be 0 or 1."""

_ACK = (Property.REASON_STRING, Property.USER_PROPERTY)
_MESSAGE = (
    Property.PAYLOAD_FORMAT,
    Property.MESSAGE_EXPIRY,
    Property.CONTENT_TYPE,
    Property.RESPONSE_TOPIC,
    Property.CORRELATION_DATA,
    Property.USER_PROPERTY,
)
_AUTHENTICATION = (Property.AUTHENTICATION_METHOD, Property.AUTHENTICATION_DATA)

BELONGS: Final[dict[int, frozenset[Property]]] = {
    WILL: frozenset({*_MESSAGE, Property.WILL_DELAY}),
    PacketType.CONNECT: frozenset(
        {
            *_AUTHENTICATION,
            Property.SESSION_EXPIRY,
            Property.REQUEST_PROBLEM_INFORMATION,
            Property.REQUEST_RESPONSE_INFORMATION,
            Property.RECEIVE_MAXIMUM,
            Property.TOPIC_ALIAS_MAXIMUM,
            Property.USER_PROPERTY,
            Property.MAXIMUM_PACKET_SIZE,
        }
    ),
    PacketType.CONNACK: frozenset(
        {
            *_ACK,
            *_AUTHENTICATION,
            Property.SESSION_EXPIRY,
            Property.ASSIGNED_CLIENT_ID,
            Property.SERVER_KEEP_ALIVE,
            Property.RESPONSE_INFORMATION,
            Property.SERVER_REFERENCE,
            Property.RECEIVE_MAXIMUM,
            Property.TOPIC_ALIAS_MAXIMUM,
            Property.MAXIMUM_QOS,
            Property.RETAIN_AVAILABLE,
            Property.MAXIMUM_PACKET_SIZE,
            Property.WILDCARD_SUBSCRIPTION_AVAILABLE,
            Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            Property.SHARED_SUBSCRIPTION_AVAILABLE,
        }
    ),
    PacketType.PUBLISH: frozenset({*_MESSAGE, Property.SUBSCRIPTION_IDENTIFIER, Property.TOPIC_ALIAS}),
    PacketType.PUBACK: frozenset(_ACK),
    PacketType.PUBREC: frozenset(_ACK),
    PacketType.PUBREL: frozenset(_ACK),
    PacketType.PUBCOMP: frozenset(_ACK),
    PacketType.SUBSCRIBE: frozenset({Property.SUBSCRIPTION_IDENTIFIER, Property.USER_PROPERTY}),
    PacketType.SUBACK: frozenset(_ACK),
    PacketType.UNSUBSCRIBE: frozenset({Property.USER_PROPERTY}),
    PacketType.UNSUBACK: frozenset(_ACK),
    PacketType.DISCONNECT: frozenset({*_ACK, Property.SESSION_EXPIRY, Property.SERVER_REFERENCE}),
    PacketType.AUTH: frozenset({*_ACK, *_AUTHENTICATION}),
}
"""Where each property may stand: table 2-4 of the specification, by packet type."""

_TABLES: Final[dict[int, dict[int, tuple[Property, int]]]] = {
    where: {int(known): (known, _KINDS[known]) for known in known_here} for where, known_here in BELONGS.items()
}


def decode_properties(data: bytes, at: int, end: int, where: int) -> tuple[Properties, int]:
    """Read a property length and so many bytes of properties; ``where`` is a packet type, or `WILL`.

    Returns the properties, `EMPTY` where there are none, and the position after them.
    """
    if at < end and not data[at]:
        return EMPTY, at + 1
    length, at = wire.read_varint(data, at, end)
    stop = at + length
    if stop > end:
        raise MalformedPacket(f"property length {length} passes the end of the packet by {stop - end}")
    table = _TABLES[where]
    found: Properties = {}
    while at < stop:
        entry = table.get(data[at])  # every known identifier is one byte
        if entry is None:
            raise MalformedPacket(f"property {data[at]} does not belong in {_name(where)}")
        known, kind = entry
        value, at = _READERS[kind](data, at + 1, stop)
        if kind == _PAIR:
            found.setdefault(known, []).append(value)
        elif known is Property.SUBSCRIPTION_IDENTIFIER and where == PacketType.PUBLISH:
            _check(known, kind, value)
            found.setdefault(known, []).append(value)
        elif known in found:
            raise ProtocolError(f"property {known.name.lower()} is given twice in {_name(where)}")
        else:
            _check(known, kind, value)
            found[known] = value
    if Property.AUTHENTICATION_DATA in found and Property.AUTHENTICATION_METHOD not in found:  # 3.1.2.11.10
        raise ProtocolError("authentication data without an authentication method")
    return found, at


def _check(known: Property, kind: int, value: Any) -> None:
    """Raise where a value of the right type is outside the property's range."""
    if kind == _BYTE:
        if value > 1:
            raise ProtocolError(f"{known.name.lower()} is {value}, must be 0 or 1")
    elif known in _NOT_ZERO:
        if value == 0:
            violation = TopicAliasInvalid if known is Property.TOPIC_ALIAS else ProtocolError
            raise violation(f"{known.name.lower()} is 0")
    elif known is Property.RESPONSE_TOPIC and (not value or "+" in value or "#" in value):  # [MQTT-3.3.2-14]
        raise ProtocolError("response topic must be a topic name: not empty, no wildcard")


def _name(where: int) -> str:
    return PacketType(where).name if where else "a will"


def _read_pair(data: bytes, at: int, end: int) -> tuple[tuple[str, str], int]:
    name, at = wire.read_string(data, at, end)
    value, at = wire.read_string(data, at, end)
    return (name, value), at


_READERS: Final[tuple[Any, ...]] = (
    wire.read_u8,
    wire.read_u16,
    wire.read_u32,
    wire.read_varint,
    wire.read_string,
    wire.read_binary,
    _read_pair,
)


def encode_properties(props: Properties) -> bytes:
    """Properties as they stand in a packet: their length, then their bytes."""
    if not props:
        return b"\0"
    body = encode_property_body(props)
    return wire.varint(len(body)) + body


def encode_property_body(props: Properties) -> bytes:
    """The bytes of the properties, in the mapping's order, without the length in front.

    Raises ValueError for a value that does not fit its type.
    """
    parts: list[bytes] = []
    for identifier, value in props.items():
        known = Property(identifier)
        kind = _KINDS[known]
        tag = bytes((known,))
        if kind == _PAIR:
            parts.extend(tag + wire.string(name) + wire.string(text) for name, text in value)
        elif kind == _VARINT:
            parts.extend(tag + wire.varint(number) for number in (value if isinstance(value, list) else (value,)))
        elif kind == _STRING:
            parts.append(tag + wire.string(value))
        elif kind == _BINARY:
            parts.append(tag + wire.binary(value))
        else:
            parts.append(tag + _integer(known, kind, value))
    return b"".join(parts)


def _integer(known: Property, kind: int, value: int) -> bytes:
    size = {_BYTE: 1, _U16: 2, _U32: 4}[kind]
    try:
        return int(value).to_bytes(size, "big")
    except OverflowError:
        raise ValueError(f"{known.name.lower()} is {value}, does not fit {size} bytes") from None
