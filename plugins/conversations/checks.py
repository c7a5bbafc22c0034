"""What a caller may give: kinds, names, topics, users. No I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from broker.packets import ProtocolViolation, check_identifier
from plugins.conversations.model import BETWEEN, CHANNEL, DIRECT, HISTORIES, KINDS, OWN
from plugins.timelines import Unprocessable
from plugins.timelines.publishing import check_name

AT_ONCE = 100
"""Members that one call adds."""
MAX_NAME = 200
"""Characters of a conversation's name."""


def check(kind: str, name: str, history: str, members: Sequence[str]) -> None:
    """Raise `Unprocessable` for what no conversation can be, or have."""
    if kind not in KINDS:
        raise Unprocessable(f"kind {kind[:40]!r}: must be {', '.join(KINDS)}")
    if len(name) > MAX_NAME:
        raise Unprocessable(f"name of {len(name)} characters: at most {MAX_NAME}")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise Unprocessable(f"name {name[:80]!r}: must have no control characters")
    if history not in HISTORIES:
        raise Unprocessable(f"history {history[:40]!r}: must be {', '.join(HISTORIES)}")
    if len(members) > AT_ONCE:
        raise Unprocessable(f"{len(members)} members: at most {AT_ONCE} at once; add the others afterwards")
    for user in members:
        check_user(user)


def check_topic(topic: str, prefix: str, max_levels: int) -> None:
    """Raise `Unprocessable` unless a group may have it."""
    check_name(topic)
    if not topic.startswith(prefix) or topic == prefix or BETWEEN in topic or len(topic) > 1024:
        raise Unprocessable(f"topic {topic[:80]!r}: must begin with {prefix!r}, and have at most 1024 characters")
    if topic.startswith((f"{prefix}{DIRECT}/", f"{prefix}{CHANNEL}/", f"{prefix}{OWN}/")):
        raise Unprocessable(f"topic {topic[:80]!r}: those of kind direct and channel, and of users' own, are the broker's")
    if topic.count("/") >= max_levels:
        raise Unprocessable(f"topic: more than {max_levels} levels")


def check_user(user: str) -> None:
    """Raise `Unprocessable` unless it is a user key."""
    try:
        check_identifier(user, "user")
        if user.startswith(("u/", "c/")) and len(user) > 2 and len(user.encode()) <= 4096 and BETWEEN not in user:
            return
    except (ProtocolViolation, UnicodeEncodeError):
        pass
    raise Unprocessable(f"user {user[:40]!r}: must be u/<user name> or c/<client id>, of at most 4096 bytes")
