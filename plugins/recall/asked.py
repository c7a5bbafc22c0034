"""What a message says that it recalls, as user properties (MQTT 5). No I/O."""

from __future__ import annotations

from broker.hooks import Refusal
from broker.packets import Property, ReasonCode, shown
from plugins.timelines.messages import message_properties, parse_id
from storage.messages import RECALLED, Message

RECALLS = "tideline-recalls"
"""The name of the property; its value is the id of a message. It may stand there several times."""
MOST = 100
"""Messages that one message recalls at most."""

_SIGN = b"tideline-recall"


def concerns(message: Message) -> bool:
    """Whether a message may have such properties. A look at its bytes, as every message comes by."""
    return _SIGN in message.properties


def asked(message: Message) -> list[int]:
    """The ids of those that a message recalls. Raises `Refusal` where it cannot recall what it names."""
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    if any(name == RECALLED for name, _ in pairs):
        raise Refusal(f"user property {RECALLED}: is the broker's own", ReasonCode.NOT_AUTHORIZED)
    named = [value for name, value in pairs if name == RECALLS]
    if not named:
        return []
    if len(named) > MOST:
        raise Refusal(f"user property {RECALLS}: {len(named)} messages, at most {MOST} are recalled at once")
    if message.payload:
        raise Refusal(f"a message that recalls others has no payload of its own; this one has {len(message.payload)} bytes")
    ids = []
    for value in named:
        number = parse_id(value)
        if not number:
            raise Refusal(f"user property {RECALLS}: {shown(value)} must be the id of a message, 16 hexadecimal digits")
        ids.append(number)
    return list(dict.fromkeys(ids))
