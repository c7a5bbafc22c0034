"""What a message is called on the other side, and its properties there. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from broker.packets import Properties, Property, encode_property_body, matches
from plugins.bridge.config import Route
from plugins.timelines.messages import message_properties
from storage.records import Message

MARK = "tideline-bridge"
"""The user property that says through which broker's bridges a message has come."""

_CARRIED = {
    Property.PAYLOAD_FORMAT: "PayloadFormatIndicator",
    Property.CONTENT_TYPE: "ContentType",
    Property.RESPONSE_TOPIC: "ResponseTopic",
    Property.CORRELATION_DATA: "CorrelationData",
}


def there(routes: Iterable[Route], topic: str) -> str | None:
    """What a topic of ours is called there, by the first route that has it; None where none has."""
    return _renamed(((route.filter, route.local, route.remote) for route in routes), topic)


def here(routes: Iterable[Route], topic: str) -> str | None:
    """The other way round."""
    return _renamed(((route.filter, route.remote, route.local) for route in routes), topic)


def _renamed(routes: Iterable[tuple[str, str, str]], topic: str) -> str | None:
    for filter_, before, after in routes:
        rest = topic.removeprefix(before)
        if topic.startswith(before) and rest and matches(filter_, rest):
            return after + rest
    return None


def properties_there(message: Message, mark: str, now: int) -> PahoProperties:
    """The properties of a message as paho wants them, marked as come from here."""
    own, made = message_properties(message), PahoProperties(PacketTypes.PUBLISH)
    for ours, theirs in _CARRIED.items():
        if ours in own:
            setattr(made, theirs, own[ours])
    if message.expires:
        made.MessageExpiryInterval = max(1, (message.expires - now) // 1000)
    made.UserProperty = [*own.get(Property.USER_PROPERTY, ()), (MARK, mark)]
    return made


def properties_here(properties: Any) -> tuple[bytes, int]:
    """What came with a message, encoded as ours are, and the seconds after which it expires; 0 is never."""
    own: Properties = {}
    for ours, theirs in _CARRIED.items():
        value = getattr(properties, theirs, None)
        if value is not None:
            own[ours] = value
    pairs = [(str(name), str(value)) for name, value in getattr(properties, "UserProperty", ())]
    if pairs:
        own[Property.USER_PROPERTY] = pairs
    return encode_property_body(own) if own else b"", int(getattr(properties, "MessageExpiryInterval", 0))


def came_from_here(properties: Any, mark: str) -> bool:
    """Whether a message was here before."""
    return (MARK, mark) in [tuple(pair) for pair in getattr(properties, "UserProperty", ())]
