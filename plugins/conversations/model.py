"""What is kept of a conversation and of its members. No I/O."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

from broker.access import CONVERSATIONS

DIRECT, GROUP, CHANNEL = "direct", "group", "channel"
KINDS: Final = (DIRECT, GROUP, CHANNEL)
OWNER, ADMIN, MEMBER, READ_ONLY = "owner", "admin", "member", "read-only"
ROLES: Final = (OWNER, ADMIN, MEMBER, READ_ONLY)
START, JOINING = "start", "joining"
HISTORIES: Final = (START, JOINING)

OWN: Final = "own"
"""The level below the prefix where each user has a topic of its own."""

ABOUT: Final = CONVERSATIONS
MEMBERS, MINE, MENTIONS, WORK, VALUES = (
    "conversation member",
    "conversation of",
    "conversation mention",
    "conversation work",
    "user value",
)
"""The tables. ABOUT: a part for each conversation, key `THE`. MEMBERS: its members, by user key. MINE: the same by user, so
that a change touches two rows however many members there are; its value is an `Outline`. MENTIONS: by user, of what is not
read yet. WORK: changes of membership that are not done on all devices, all in one part. VALUES: a user's own, by key."""
THE: Final = "the"
BETWEEN: Final = "\x1f"
"""Between the parts of a key of MENTIONS and WORK; no topic of a conversation has it."""


class About(NamedTuple):
    """A conversation. Times are ms. ``owners`` are user keys: who may do everything, and of whom the last one stays.
    ``begins``: the last sequence of what its topic had before, and no member of it sees."""

    topic: str
    kind: str
    name: str
    history: str
    created: int
    creator: str
    owners: Sequence[str] = ()
    revision: int = 0
    begins: int = 0

    def encode(self) -> bytes:
        """As it is kept."""
        fields = self._asdict()
        del fields["revision"], fields["topic"]
        if not self.begins:  # as nearly always; a node of an earlier version does not know it
            del fields["begins"]
        return json.dumps({**fields, "owners": list(self.owners)}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, topic: str, value: bytes, revision: int) -> About:
        return cls(topic=topic, revision=revision, **json.loads(value))

    def shown(self) -> dict[str, Any]:
        """For callers."""
        fields = ("topic", "kind", "name", "history", "created", "creator")
        return {name: getattr(self, name) for name in fields} | {"owners": list(self.owners)}


class Outline(NamedTuple):
    """What the list of a user's conversations is sorted by. It is kept with the user's own row, so that the list is read from
    one place; what is told of a conversation comes from its members' rows."""

    joined: int
    floor: int
    invited: bool

    def encode(self) -> bytes:
        """As it is kept."""
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, value: bytes) -> Outline | None:
        """None where the row says no more than that it is there."""
        return cls(*json.loads(value)) if value else None


@dataclass(frozen=True, slots=True)
class Membership:
    """That a user is a member. ``floor``: the last sequence that it does not see. ``invited``: it has not accepted yet, and
    sees nothing. ``muted``: the user wants no notifications."""

    role: str
    floor: int = 0
    joined: int = 0
    by: str = ""
    invited: bool = False
    muted: bool = False
    revision: int = 0

    def encode(self) -> bytes:
        fields = asdict(self)
        del fields["revision"]
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, value: bytes, revision: int) -> Membership:
        return cls(**json.loads(value), revision=revision)

    @property
    def outline(self) -> Outline:
        """What of it the user's list is sorted by."""
        return Outline(self.joined, self.floor, self.invited)

    def with_(self, **changes: Any) -> Membership:
        return replace(self, **changes)

    def shown(self, user: str) -> dict[str, Any]:
        """For callers."""
        return {"user": user, "role": self.role, "joined": self.joined, "by": self.by, "invited": self.invited}


def new_topic(prefix: str, kind: str) -> str:
    """A topic that nobody can guess."""
    return f"{prefix}{kind}/{secrets.token_hex(10)}"


def direct_topic(prefix: str, one: str, other: str) -> str:
    """The one topic of two users: whoever of them begins."""
    pair = "\0".join(sorted((one, other)))
    return f"{prefix}{DIRECT}/{hashlib.blake2b(pair.encode(), digest_size=16).hexdigest()}"
