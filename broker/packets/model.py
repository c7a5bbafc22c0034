"""The control packets of MQTT 3.1, 3.1.1 and 5, as plain values.

A field that a version does not have keeps its default there. ``reason`` is a reason code of MQTT 5, except in the CONNACK and
the SUBACK of a 3.1.1 server, where it is the return code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from broker.packets.codes import PacketType
from broker.packets.connect import ConnAck as ConnAck
from broker.packets.connect import Connect as Connect
from broker.packets.connect import Will as Will
from broker.packets.properties import EMPTY, Properties
from broker.packets.publish import PubAck as PubAck
from broker.packets.publish import PubAcks as PubAcks
from broker.packets.publish import Publish as Publish

MQTT_3_1: Final = 3
MQTT_3_1_1: Final = 4
MQTT_5: Final = 5


@dataclass(slots=True)
class PubRec:
    type: ClassVar[PacketType] = PacketType.PUBREC
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


@dataclass(slots=True)
class PubRel:
    type: ClassVar[PacketType] = PacketType.PUBREL
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


@dataclass(slots=True)
class PubComp:
    type: ClassVar[PacketType] = PacketType.PUBCOMP
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


@dataclass(slots=True)
class Subscribe:
    """``subscriptions`` are (filter, options byte).

    Bits 0-1 of the options are the QoS; in MQTT 5, bit 2 is No Local, 3 Retain As Published, 4-5 Retain Handling.
    """

    type: ClassVar[PacketType] = PacketType.SUBSCRIBE
    packet_id: int
    subscriptions: list[tuple[str, int]]
    properties: Properties = EMPTY


@dataclass(slots=True)
class SubAck:
    type: ClassVar[PacketType] = PacketType.SUBACK
    packet_id: int
    reasons: list[int]
    properties: Properties = EMPTY


@dataclass(slots=True)
class Unsubscribe:
    type: ClassVar[PacketType] = PacketType.UNSUBSCRIBE
    packet_id: int
    filters: list[str]
    properties: Properties = EMPTY


@dataclass(slots=True)
class UnsubAck:
    """``reasons`` is empty in 3.1.1."""

    type: ClassVar[PacketType] = PacketType.UNSUBACK
    packet_id: int
    reasons: list[int]
    properties: Properties = EMPTY


@dataclass(slots=True)
class PingReq:
    type: ClassVar[PacketType] = PacketType.PINGREQ


@dataclass(slots=True)
class PingResp:
    type: ClassVar[PacketType] = PacketType.PINGRESP


@dataclass(slots=True)
class Disconnect:
    type: ClassVar[PacketType] = PacketType.DISCONNECT
    reason: int = 0
    properties: Properties = EMPTY


@dataclass(slots=True)
class Auth:
    type: ClassVar[PacketType] = PacketType.AUTH
    reason: int = 0
    properties: Properties = EMPTY


Packet = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubAcks
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)


def each(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Every packet by itself, those that came as one as well."""
    for packet in packets:
        if isinstance(packet, PubAcks):
            yield from packet
        else:
            yield packet
