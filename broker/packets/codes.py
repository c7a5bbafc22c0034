"""Packet types, reason codes, and the error that carries one.

A violation is always the peer's fault; its reason code is what a CONNACK or a DISCONNECT says about it.

    ProtocolViolation
    +-- MalformedPacket         0x81  the bytes cannot be parsed
    |   +-- TopicFilterInvalid  0x81  an impossible topic filter
    |   +-- TopicNameInvalid    0x81  an impossible topic name
    +-- ProtocolError           0x82  they can, but the peer may not send this, or not now
    +-- UnsupportedVersion      0x84  a protocol name or level that is not spoken here
    +-- TopicAliasInvalid       0x94
    +-- PacketTooLarge          0x95

Codes 0x8F and 0x90 are for topics that are "not malformed, but not accepted by this server" (3.4.2.1, 3.9.3): for the
broker to say, never for the codec.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

NO_LOCAL: Final = 0x04
"""In a byte of subscription options (5: 3.8.3.1): what this client itself published is not for it."""
RETAIN_AS_PUBLISHED: Final = 0x08
"""In the same byte: RETAIN is forwarded as it was published."""


class PacketType(IntEnum):
    """The control packet type: the upper four bits of a packet's first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class ReasonCode(IntEnum):
    """The reason codes of MQTT 5 (2.4); from 0x80 on they mean failure."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


_RETURN_CODES: dict[int, int] = {
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
    ReasonCode.BANNED: 5,
    ReasonCode.BAD_AUTHENTICATION_METHOD: 5,
    ReasonCode.TOPIC_NAME_INVALID: 5,
}


def connect_return_code(reason: int) -> int:
    """The CONNACK return code (0 to 5) that tells a 3.1.1 client what comes nearest to ``reason``.

    Return codes pass through; a failure that 3.1.1 has no word for becomes 3, server unavailable.
    """
    return reason if reason <= 5 else _RETURN_CODES.get(reason, 3)


class ProtocolViolation(Exception):
    """The peer broke a rule of MQTT; ``code`` says which kind, ``text`` what was wrong with what it sent."""

    code: ReasonCode
    default: ClassVar[ReasonCode] = ReasonCode.PROTOCOL_ERROR

    def __init__(self, text: str, code: ReasonCode | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.code = self.default if code is None else code

    def __str__(self) -> str:
        return f"{self.text} (0x{self.code:02X})"


class MalformedPacket(ProtocolViolation):
    """The bytes cannot be parsed as the specification says."""

    default = ReasonCode.MALFORMED_PACKET


class ProtocolError(ProtocolViolation):
    """The packet parses, but its sender may not send it, or not now."""

    default = ReasonCode.PROTOCOL_ERROR


class UnsupportedVersion(ProtocolViolation):
    """A protocol name or level other than MQTT 3.1, 3.1.1 and 5."""

    default = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION

    def __init__(self, text: str, level: int) -> None:
        super().__init__(text)
        self.level = level


class TopicFilterInvalid(MalformedPacket):
    """A topic filter that is empty, or breaks the rules of wildcards or of shared subscriptions."""


class TopicNameInvalid(MalformedPacket):
    """A topic name that is empty or holds a wildcard."""


class TopicAliasInvalid(ProtocolViolation):
    """A topic alias that is 0."""

    default = ReasonCode.TOPIC_ALIAS_INVALID


class PacketTooLarge(ProtocolViolation):
    """A packet larger than the receiver said it accepts."""

    default = ReasonCode.PACKET_TOO_LARGE
