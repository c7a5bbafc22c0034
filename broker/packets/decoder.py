"""Bytes in, packets out: the MQTT framing and grammar of one connection, without I/O.

What holds for any split of the stream:

- Packets come out in the order of their bytes; what stands before the first violation is delivered, nothing behind it is.
- PUBACKs of a client that came together are one `PubAcks`, where they have no reason.
- A packet larger than ``max_packet_size`` is refused as soon as its fixed header is there; never more than one incomplete
  packet is kept.
- No input raises: a violation of the peer ends in ``error``.

Over 300 lines: what comes with each message is parsed in one loop, whose state the pieces of a packet share.
"""

from __future__ import annotations

from typing import Final, Literal

from broker.packets import wire
from broker.packets.bodies import READERS, connect_version, read_connect
from broker.packets.codes import (
    MalformedPacket,
    PacketTooLarge,
    PacketType,
    ProtocolError,
    ProtocolViolation,
    UnsupportedVersion,
)
from broker.packets.model import MQTT_3_1, MQTT_3_1_1, MQTT_5, Packet, PubAck, PubAcks, Publish
from broker.packets.properties import EMPTY, Property, decode_properties
from broker.packets.topics import validate_name

MAX_PACKET_SIZE: Final = wire.MAX_VARINT + 5
"""The largest packet that MQTT can express, with its fixed header."""

_RESERVED_FLAGS: Final[dict[int, int]] = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}
"""What the low four bits of the first byte must be [MQTT-2.1.3-1], in 3.1.1 [MQTT-2.2.2-1]; 0 for the rest."""

_FROM_CLIENT: Final = frozenset(
    {
        PacketType.PUBACK,
        PacketType.PUBREC,
        PacketType.PUBREL,
        PacketType.PUBCOMP,
        PacketType.SUBSCRIBE,
        PacketType.UNSUBSCRIBE,
        PacketType.PINGREQ,
        PacketType.DISCONNECT,
        PacketType.AUTH,
    }
)
_FROM_SERVER: Final = frozenset(
    {
        PacketType.CONNACK,
        PacketType.PUBACK,
        PacketType.PUBREC,
        PacketType.PUBREL,
        PacketType.PUBCOMP,
        PacketType.SUBACK,
        PacketType.UNSUBACK,
        PacketType.PINGRESP,
        PacketType.DISCONNECT,
        PacketType.AUTH,
    }
)

_EMPTY: Final = EMPTY  # a module's own is no look-up in the compiled core

_LARGE: Final = 4096
"""Bytes of a piece that is worth an object of its own."""

_known_topics: Final[dict[bytes, str]] = {}
"""Topic names that were decoded and validated, by their bytes. One for all connections, so that a topic is one str object in
the process and an idle connection pays nothing for it. Emptying it costs only time."""
_KNOWN_TOPICS_MAX: Final = 16384
_KNOWN_TOPIC_SIZE: Final = 256


def _learn_topic(raw: bytes) -> str:
    """Decode and validate a topic name that is not known yet."""
    topic = wire.to_text(raw)
    validate_name(topic)
    if len(raw) <= _KNOWN_TOPIC_SIZE:
        if len(_known_topics) >= _KNOWN_TOPICS_MAX:
            _known_topics.clear()
        _known_topics[raw] = topic
    return topic


def _end_of_run(data: bytes, at: int, end: int) -> int:
    """Where the PUBACKs end that follow without a reason."""
    while at + 4 <= end and data[at] == 0x40 and data[at + 1] == 2 and (data[at + 2] or data[at + 3]):
        at += 4
    return at


class Decoder:
    """The receiving half of one connection.

    ``role`` is who reads: "server" accepts what a client may send, "client" what a server may; a client sets ``version``
    itself. ``version`` is 0 until a CONNECT came. It is set even where that CONNECT is refused, so that the refusal can be
    encoded: 5, or 3.1.1 where another level was named. ``error`` is the violation that ended the
    stream.
    """

    __slots__ = (
        "_from_client",
        "_kept",
        "_more",
        "_partial",
        "_wanted",
        "error",
        "max_packet_size",
        "reached",
        "role",
        "version",
    )

    def __init__(
        self, role: Literal["server", "client"] = "server", *, version: int = 0, max_packet_size: int = MAX_PACKET_SIZE
    ) -> None:
        self.role = role
        self.version = version
        self.max_packet_size = max_packet_size
        self.error: ProtocolViolation | None = None
        self._from_client = role == "server"
        self._partial = b""
        self._more: list[bytes | bytearray] | None = None
        """What came of a packet behind its first piece: None for most, so that an idle connection pays nothing for it."""
        self._kept = 0
        self._wanted = 0
        self.reached = 0
        """How far what it was given last was looked at: to its end, unless there was enough before."""

    @property
    def buffered(self) -> int:
        """Bytes kept of a packet that is not complete."""
        return self._kept

    def feed(self, data: bytes, start: int = 0, enough: int = MAX_PACKET_SIZE) -> list[Packet]:
        """The packets that ``data`` completes, in order; [] for ever once ``error`` is set.

        It is looked at from ``start`` on. Behind ``enough`` bytes no packet is begun: ``reached`` says where it is to go on.
        """
        packets: list[Packet] = []
        self.reached = len(data)
        if self.error is not None:
            return packets
        until = start + enough
        at = start
        before = 0  # bytes of `data` that came earlier
        try:
            if self._kept:
                missing = self._wanted - self._kept
                if missing > len(data) - at:
                    self._kept += len(data) - at
                    self._keep(data[at:])
                    return packets
                pieces = [self._partial] if self._more is None else [self._partial, *self._more]
                kept = self._kept
                self._partial, self._more, self._kept = b"", None, 0
                if missing > 0:  # that packet alone: what is behind it is not copied
                    pieces.append(data[at : at + missing])
                    self._decode(b"".join(pieces), packets, 0, MAX_PACKET_SIZE)
                    at += missing
                else:  # not even its length is there
                    pieces.append(data[at:])
                    data = b"".join(pieces)
                    before, at = kept - at, 0
                    until += before
            at = self._decode(data, packets, at, until)
        except ProtocolViolation as violation:
            self.error = violation
        else:
            if at >= until:
                self.reached = at - before
            elif at < len(data):
                self._partial = data[at:]
                self._kept = len(data) - at
        return packets

    def _keep(self, data: bytes) -> None:
        """One more piece of a packet. Large ones stay as they are until all are there; small ones go to one that grows in
        place, or a packet in many of them would cost many times its size."""
        if self._more is None:
            self._more = []
        if len(data) >= _LARGE:
            self._more.append(data)
        elif self._more and isinstance(last := self._more[-1], bytearray):
            last += data
        else:
            self._more.append(bytearray(data))

    def _decode(self, data: bytes, packets: list[Packet], at: int, until: int) -> int:
        """Append the complete packets from ``at`` on that start before ``until``; returns where the next one starts.

        The hot loop of the broker: PUBLISH, and PUBACK without a reason, are parsed right here, everything else in `_other`.
        A call per packet or per field costs 5 to 15% each of what a PUBLISH takes in all.
        """
        version = self.version
        limit = self.max_packet_size
        end = len(data)
        named, topic = b"", ""
        while at + 2 <= end and at < until:
            first = data[at]
            length = data[at + 1]
            body = at + 2
            if length > 0x7F:
                if body < end and 0 < data[body] < 0x80:  # of two bytes, as most: without a call
                    length = length & 0x7F | data[body] << 7
                    body += 1
                else:
                    length, body = self._long_length(data, at, end)
                    if not body:
                        break
            stop = body + length
            if stop - at > limit:
                raise PacketTooLarge(f"packet has {stop - at} bytes, at most {limit} are accepted")
            if stop > end:
                if not version and self._from_client and first != 0x10:
                    raise ProtocolError("the first packet is not CONNECT")  # nothing to wait for [MQTT-3.1.0-1]
                self._wanted = stop - at
                return at

            if first & 0xF0 == 0x30 and version:
                at = body + 2
                if at > stop:
                    raise MalformedPacket("PUBLISH ends inside its topic's length")
                start = at
                at += data[body] << 8 | data[body + 1]
                raw = data[start:at]
                if at > stop:
                    raise MalformedPacket(f"topic passes the end of the packet by {at - stop}")
                if raw != named or not raw:  # else it is that of the message before
                    known = _known_topics.get(raw)
                    if known is None:
                        known = _learn_topic(raw) if raw or version != MQTT_5 else ""
                    named, topic = raw, known
                qos = first >> 1 & 3
                if qos:
                    if qos == 3:
                        raise MalformedPacket("PUBLISH with QoS 3")  # [MQTT-3.3.1-4]
                    if at + 2 > stop:
                        raise MalformedPacket("PUBLISH ends inside its packet identifier")
                    packet_id = data[at] << 8 | data[at + 1]
                    if not packet_id:
                        raise ProtocolError("PUBLISH with packet identifier 0")  # [MQTT-2.2.1-3], in 3.1.1 [MQTT-2.3.1-1]
                    at += 2
                else:
                    if first & 8:
                        raise MalformedPacket("PUBLISH with DUP and QoS 0")  # [MQTT-3.3.1-2]
                    packet_id = 0
                properties = _EMPTY
                if version == MQTT_5:
                    if at < stop and not data[at]:
                        at += 1
                    else:
                        properties, at = decode_properties(data, at, stop, PacketType.PUBLISH)
                        if self._from_client and Property.SUBSCRIPTION_IDENTIFIER in properties:
                            raise ProtocolError("PUBLISH of a client with a subscription identifier")  # [MQTT-3.3.4-6]
                    if not topic and Property.TOPIC_ALIAS not in properties:  # 3.3.2.1
                        raise ProtocolError("PUBLISH with neither a topic nor a topic alias")
                packets.append(Publish(topic, data[at:stop], qos, first & 1 == 1, first & 8 == 8, packet_id, properties))
            elif first == 0x40 and length == 2 and version:
                packet_id = data[body] << 8 | data[body + 1]
                if not packet_id:
                    raise ProtocolError("PUBACK with packet identifier 0")
                if self._from_client and stop == at + 4:  # else its length was written longer than it is
                    stop = _end_of_run(data, stop, end if end < until else until)
                packets.append(PubAck(packet_id) if stop == body + 2 else PubAcks(data[at:stop]))
            else:
                packets.append(self._other(data, at, body, stop))
                version = self.version
            at = stop
        else:
            self._wanted = 0
        return at

    def _long_length(self, data: bytes, at: int, end: int) -> tuple[int, int]:
        """Read a remaining length of two bytes or more: (length, start of the body), or (0, 0) where it is not complete."""
        length = data[at + 1] & 0x7F
        for place in (1, 2, 3):
            if at + 1 + place >= end:
                self._wanted = 0
                return 0, 0
            digit = data[at + 1 + place]
            length |= (digit & 0x7F) << 7 * place
            if digit < 0x80:
                if not digit and self.version == MQTT_5:
                    raise MalformedPacket(f"remaining length {length} is longer than it needs to be")  # [MQTT-1.5.5-1]
                return length, at + 2 + place
        raise MalformedPacket("remaining length is longer than 4 bytes")  # 2.1.4, in 3.1.1 2.2.3

    def _other(self, data: bytes, at: int, body: int, stop: int) -> Packet:
        """Parse the packet at ``at``, of whatever type."""
        kind, flags = data[at] >> 4, data[at] & 0x0F
        if self._from_client and kind == PacketType.CONNECT and not self.version:
            return self._connect(data, body, stop, flags, padded=body - at > 2 and not data[body - 1])
        if not self.version:
            raise ProtocolError(
                "first packet is not CONNECT" if self._from_client else "no protocol level set"
            )  # [MQTT-3.1.0-1]
        if kind == 0 or (kind == PacketType.AUTH and self.version != MQTT_5):
            raise ProtocolError(f"packet type {kind} is reserved")
        if kind == PacketType.CONNECT and self._from_client:
            raise ProtocolError("second CONNECT")  # [MQTT-3.1.0-2]
        if kind not in (_FROM_CLIENT if self._from_client else _FROM_SERVER):
            raise ProtocolError(f"{PacketType(kind).name} cannot be sent to a {self.role}")
        if flags != _RESERVED_FLAGS.get(kind, 0) and self.version != MQTT_3_1:  # in 3.1 they are QoS 1 and DUP, or unused
            raise MalformedPacket(f"flags of {PacketType(kind).name} are 0x{flags:X}")
        return READERS[kind](data, body, stop, self.version, self._from_client)

    def _connect(self, data: bytes, body: int, stop: int, flags: int, padded: bool) -> Packet:
        try:
            self.version, at = connect_version(data, body, stop)
        except UnsupportedVersion as violation:
            # 3.1.1 must be told so in its own way [MQTT-3.1.2-2]; 5 leaves the form of the refusal to us.
            self.version = MQTT_5 if violation.level == MQTT_5 else MQTT_3_1_1
            raise
        if flags and self.version != MQTT_3_1:
            raise MalformedPacket(f"flags of CONNECT are 0x{flags:X}")
        if padded and self.version == MQTT_5:
            raise MalformedPacket("remaining length is longer than it needs to be")  # [MQTT-1.5.5-1]
        return read_connect(data, at, stop, self.version)
