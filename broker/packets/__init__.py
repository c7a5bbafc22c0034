"""MQTT 3.1.1 and 5 on the wire: bytes in, packets out, and the rules of topic names and filters. No I/O.

Kept true: whatever the bytes and however they are cut, the outcome is packets or one violation with its reason code.
"""

from broker.packets.codes import (
    NO_LOCAL,
    RETAIN_AS_PUBLISHED,
    PacketTooLarge,
    PacketType,
    ProtocolViolation,
    ReasonCode,
    TopicAliasInvalid,
    UnsupportedVersion,
)
from broker.packets.decoder import Decoder
from broker.packets.encoder import PINGRESP, ack_frame, encode, puback_frame, publish_parts
from broker.packets.model import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from broker.packets.other_protocols import TLS, protocol_of
from broker.packets.properties import EMPTY, FORWARDED, Properties, Property, decode_properties, encode_property_body
from broker.packets.topics import SHARE, is_wildcard, matches, overlap, parse_share, reserved, validate_filter, validate_name
from broker.packets.wire import BYTES, check_identifier, shown

__all__ = [
    "BYTES",
    "EMPTY",
    "FORWARDED",
    "NO_LOCAL",
    "PINGRESP",
    "RETAIN_AS_PUBLISHED",
    "SHARE",
    "TLS",
    "Auth",
    "ConnAck",
    "Connect",
    "Decoder",
    "Disconnect",
    "Packet",
    "PacketTooLarge",
    "PacketType",
    "PingReq",
    "Properties",
    "Property",
    "ProtocolViolation",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "ReasonCode",
    "SubAck",
    "Subscribe",
    "TopicAliasInvalid",
    "UnsubAck",
    "Unsubscribe",
    "UnsupportedVersion",
    "Will",
    "ack_frame",
    "check_identifier",
    "decode_properties",
    "encode",
    "encode_property_body",
    "is_wildcard",
    "matches",
    "overlap",
    "parse_share",
    "protocol_of",
    "puback_frame",
    "publish_parts",
    "reserved",
    "shown",
    "validate_filter",
    "validate_name",
]
