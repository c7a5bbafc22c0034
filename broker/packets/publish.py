"""PUBLISH and PUBACK: the two packets that come with each message, as plain values like the others (`broker.packets.model`).

They are no dataclasses, whose ``__init__`` cannot be compiled: making one and reading its fields was a tenth of what a message
costs the event loop. Nothing in them leads back to them (``acyclic``), so that Python need not look for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from broker.packets.codes import PacketType
from broker.packets.properties import EMPTY, Properties

_EMPTY: Final = EMPTY  # a module's own is no look-up in the compiled core


@mypyc_attr(acyclic=True)
class Publish:
    """``packet_id`` is 0 with QoS 0. ``topic`` is empty only where a topic alias stands for it (MQTT 5)."""

    __slots__ = ("dup", "packet_id", "payload", "properties", "qos", "retain", "topic")

    type: ClassVar[PacketType] = PacketType.PUBLISH

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        properties: Properties = _EMPTY,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties

    def _fields(self) -> tuple[object, ...]:
        return self.topic, self.payload, self.qos, self.retain, self.dup, self.packet_id, self.properties

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Publish) else NotImplemented

    def __repr__(self) -> str:
        topic, payload, qos, retain, dup, packet_id, properties = self._fields()
        return f"Publish({topic=}, {payload=}, {qos=}, {retain=}, {dup=}, {packet_id=}, {properties=})"


@mypyc_attr(acyclic=True)
class PubAck:
    """``reason`` as in MQTT 5, 0 for success."""

    __slots__ = ("packet_id", "properties", "reason")

    type: ClassVar[PacketType] = PacketType.PUBACK

    def __init__(self, packet_id: int, reason: int = 0, properties: Properties = _EMPTY) -> None:
        self.packet_id = packet_id
        self.reason = reason
        self.properties = properties

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PubAck):
            return NotImplemented
        return (self.packet_id, self.reason, self.properties) == (other.packet_id, other.reason, other.properties)

    def __repr__(self) -> str:
        return f"PubAck(packet_id={self.packet_id}, reason={self.reason}, properties={self.properties})"


@mypyc_attr(acyclic=True)
class PubAcks:
    """PUBACKs without a reason, as a client sends them that acknowledges many messages at once: ``frames`` are their bytes, of
    four each. To make an object of each costs more than all else that an acknowledgement does."""

    __slots__ = ("frames",)

    type: ClassVar[PacketType] = PacketType.PUBACK

    def __init__(self, frames: bytes) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames) // 4

    def __iter__(self) -> Iterator[PubAck]:
        frames = self.frames
        return iter([PubAck(frames[at] << 8 | frames[at + 1]) for at in range(2, len(frames), 4)])

    def __eq__(self, other: object) -> bool:
        return self.frames == other.frames if isinstance(other, PubAcks) else NotImplemented

    def __repr__(self) -> str:
        return f"PubAcks({self.frames!r})"
