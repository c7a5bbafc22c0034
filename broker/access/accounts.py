"""Users in storage: what is kept of one, as a stored setting (`storage.settings`) of kind `USER`, and which names there may be.

Errors name the user, never a hash.
"""

from __future__ import annotations

import json
from typing import NamedTuple

USER = "user"
"""The kind of setting that a user is; its key is the name."""
BEGUN = ""
"""The key beside the names that says that there was a user once: anonymous clients are let in no more, also when all have gone.
"""

_LONGEST = 1024


class Account(NamedTuple):
    """A user. ``hash`` is one of `broker.access.password_file`; times are ms."""

    name: str
    hash: str
    disabled: bool = False
    created: int = 0
    changed: int = 0

    def encode(self) -> bytes:
        """As storage keeps it."""
        kept = {"hash": self.hash, "disabled": self.disabled, "created": self.created, "changed": self.changed}
        return json.dumps(kept, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, name: str, value: bytes) -> Account:
        """Raises ValueError."""
        try:
            kept = json.loads(value)
            return cls(name, str(kept["hash"]), bool(kept["disabled"]), int(kept["created"]), int(kept["changed"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"what storage has of user {name!r} cannot be read") from error


def name_problem(name: str) -> str:
    """What is wrong with a user's name; empty for nothing."""
    if not name or ":" in name or name.startswith("#") or name != name.strip() or not name.isprintable():
        return f"user name {name[:80]!r}: must be printable, without ':', a leading '#' or spaces around it"
    if len(name.encode()) > _LONGEST:
        return f"user name {name[:40]!r}…: longer than {_LONGEST} bytes"
    return ""
