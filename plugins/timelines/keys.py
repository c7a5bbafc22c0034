"""User keys and client ids as callers give them. A name may be as long as it is on the wire."""

from __future__ import annotations

from broker.amqtt import BROKER_USER
from broker.packets import ProtocolViolation, check_identifier
from plugins.timelines.errors import Unprocessable
from plugins.timelines.who import OPERATOR


def user_key(user: str, kind: str = "user") -> str:
    """A user key. Raises `Unprocessable`."""
    if not user.startswith(("u/", "c/")) or len(user) < 3:
        raise Unprocessable(f"{kind} {user[:40]!r}: must be u/<user name> or c/<client id>")
    checked_name(user[2:], kind)
    return user


def checked_sender(sender: str) -> str:
    """A user key, or the broker's own or the operator's; empty is anybody. Raises `Unprocessable`."""
    return sender if sender in ("", OPERATOR, BROKER_USER) else user_key(sender, "sender")


def checked_name(text: str, kind: str) -> str:
    """What may be a client id or a user's name. Raises `Unprocessable`."""
    try:
        check_identifier(text, kind)
        if len(text.encode()) > 65535:
            raise Unprocessable(f"{kind}: longer than 65535 bytes")
    except (ProtocolViolation, UnicodeEncodeError) as error:
        raise Unprocessable(f"{kind}: holds a character that it must not") from error
    return text
