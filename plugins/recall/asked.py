"""What a message says that it recalls, edits or reacts to, as user properties (MQTT 5). No I/O."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from broker.hooks import Refusal
from broker.packets import Property, ReasonCode, shown
from plugins.reaction_rows import LONGEST
from plugins.timelines.messages import EDITS, message_properties, parse_id
from storage.messages import RECALLED, Message

RECALLS = "tideline-recalls"
"""The name of the property; its value is the id of a message. It may stand there several times."""
MOST = 100
"""Messages that one message recalls at most."""

REACTS, UNREACTS = "tideline-reacts", "tideline-unreacts"
"""The names of properties whose value is the id of a message; what the reaction is stands in the payload."""

_OURS = b"tideline-"
_SIGNS = (b"tideline-recall", b"tideline-edits", b"tideline-reacts", b"tideline-unreacts")


def concerns(message: Message) -> bool:
    """Whether a message may have such properties. A look at its bytes, as every message that has any comes by."""
    return _OURS in message.properties and any(sign in message.properties for sign in _SIGNS)


def asked(message: Message) -> list[int]:
    """The ids of those that a message recalls. Raises `Refusal` where it cannot recall what it names."""
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    if any(name == RECALLED for name, _ in pairs):
        raise Refusal(f"user property {RECALLED}: is the broker's own", ReasonCode.NOT_AUTHORIZED)
    named = [value for name, value in pairs if name == RECALLS]
    does = sorted({name for name, _ in pairs if name in (RECALLS, EDITS, REACTS, UNREACTS)})
    if len(does) > 1:
        raise Refusal(f"user properties {' and '.join(does)}: a message does one of these")
    if not named:
        return []
    if len(named) > MOST:
        raise Refusal(f"user property {RECALLS}: {len(named)} messages, at most {MOST} are recalled at once")
    if message.payload:
        raise Refusal(f"a message that recalls others has no payload of its own; this one has {len(message.payload)} bytes")
    return list(dict.fromkeys(_id(RECALLS, value) for value in named))


def edited(message: Message) -> int:
    """The id of the message that one edits; 0 for none. Raises `Refusal` where it cannot edit what it names."""
    named = [value for name, value in message_properties(message).get(Property.USER_PROPERTY, ()) if name == EDITS]
    if not named:
        return 0
    if len(named) > 1:
        raise Refusal(f"user property {EDITS}: {len(named)} messages, one is edited at once")
    return _id(EDITS, named[0])


class Reaction(NamedTuple):
    """To which message, what, and whether it is taken back."""

    message: int
    text: str
    back: bool


def reaction(message: Message) -> Reaction | None:
    """What a message reacts with, and to which; None for one that does not. Raises `Refusal` for one that cannot be."""
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    named = [(name, value) for name, value in pairs if name in (REACTS, UNREACTS)]
    if not named:
        return None
    if len(named) > 1:
        raise Refusal(f"user property {named[0][0]}: {len(named)} messages, one is reacted to at once")
    ((name, value),) = named
    return Reaction(_id(name, value), reaction_text(message.payload), name == UNREACTS)


def reaction_text(payload: bytes) -> str:
    """A reaction as it is in a payload. Raises `Refusal`."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(payload) > LONGEST or any(unicodedata.category(c) == "Cc" for c in text):
        raise Refusal(
            f"reaction {shown(text)}: must be UTF-8 text of 1 to {LONGEST} bytes without control characters, such as an emoji"
        )
    return text


def _id(name: str, value: str) -> int:
    number = parse_id(value)
    if not number:
        raise Refusal(f"user property {name}: {shown(value)} must be the id of a message, 16 hexadecimal digits")
    return number
