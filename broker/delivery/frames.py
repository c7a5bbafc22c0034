"""PUBLISH frames to devices, built once per message and shape, and shared by all receivers. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from broker.packets import Property, encode_property_body, publish_parts
from broker.publication import Outgoing
from storage.records import Message


def frame_parts(message: Message, flags: int, version5: bool) -> tuple[bytes, bytes]:
    """The bytes before and after the packet identifier, for a message without per-receiver properties.

    ``flags`` are the fixed header's QoS and retain bits, without DUP. QoS 0 frames are the two parts joined.
    """
    body = message.properties if version5 else None
    if not isinstance(message, Outgoing):
        return publish_parts(message.topic, message.payload, flags, body)
    shape = flags + 6 if version5 else flags  # QoS 0-2, retain or not, MQTT 3.1.1 or 5
    if message.shape == shape:
        return message.frame
    if message.shape < 0:
        parts = message.frame = publish_parts(message.topic, message.payload, flags, body)
        message.shape = shape
        return parts
    if message.frames is None:
        message.frames = {}
    other = message.frames.get(shape)
    if other is None:
        other = message.frames[shape] = publish_parts(message.topic, message.payload, flags, body)
    return other


def personal_parts(
    message: Message,
    flags: int,
    now: int,
    identifiers: Sequence[int] = (),
    user_properties: Sequence[tuple[str, str]] = (),
    alias: int = 0,
    alias_known: bool = False,
) -> tuple[bytes, bytes]:
    """The same for one MQTT 5 receiver, with what differs between receivers or with time.

    ``now`` (ms) counts the message expiry interval down [MQTT-3.3.2-6]; ``identifiers`` are the subscription
    identifiers that matched [MQTT-3.3.4-3]; ``user_properties`` follow the publisher's own. ``alias`` (0: none) stands for
    the topic where the receiver knows it already, and is introduced where it does not [MQTT-3.3.2-12].
    """
    body = message.properties
    if message.expires:
        left = (max(0, message.expires - now) + 998) // 1000  # less the whole seconds that it waited
        body += encode_property_body({Property.MESSAGE_EXPIRY: left})
    if identifiers:
        body += encode_property_body({Property.SUBSCRIPTION_IDENTIFIER: list(identifiers)})
    if user_properties:
        body += encode_property_body({Property.USER_PROPERTY: list(user_properties)})
    if alias:
        body += encode_property_body({Property.TOPIC_ALIAS: alias})
    return publish_parts("" if alias_known else message.topic, message.payload, flags, body)


def about(message: Message, inbox_seq: int) -> list[tuple[str, str]]:
    """What an MQTT 5 receiver that asked is told about a stored message, as user properties (docs/mqtt.md).

    ``inbox_seq`` is its place in the receiver's inbox, 0 where it is in none.
    """
    if not message.seq:
        return []
    pairs = [
        ("tideline-id", f"{message.id:016x}"),
        ("tideline-seq", str(message.seq)),
        ("tideline-sender", message.user),
        ("tideline-time", str(message.time)),
    ]
    if inbox_seq:
        pairs.append(("tideline-inbox-seq", str(inbox_seq)))
    return pairs
