"""Which receipts a message asks for, by its user property. No I/O."""

from __future__ import annotations

from broker.packets import Property
from plugins.timelines import Unprocessable
from plugins.timelines.messages import message_properties
from storage.records import Message

NAME = "tideline-receipt"
LEVELS = ("delivered", "acknowledged", "read")
_BYTES = NAME.encode()
_KEY = "message-id"


def levels_of(message: Message) -> tuple[str, ...]:
    """What is asked for, of `LEVELS`; () for nothing, as for nearly all messages. Raises `Unprocessable`."""
    if _BYTES not in message.properties:
        return ()
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    found = [part.strip() for name, value in pairs if name == NAME for part in value.split(",")]
    for part in found:
        if part not in LEVELS:
            raise Unprocessable(f"{NAME} {part[:40]!r}: must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return tuple(dict.fromkeys(found))


def key_of(message: Message) -> str | None:
    """The sender's own name for the message, where it gave one."""
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    return next((value for name, value in pairs if name == _KEY), None)
