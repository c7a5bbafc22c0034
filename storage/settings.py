"""What is kept beside the messages: bearer tokens, and what administrators keep. Records and operations, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Token(NamedTuple):
    """A bearer token as storage keeps it: ``digest`` is the SHA-256 of the secret, in hex. ``expires`` 0 is never (ms)."""

    id: str
    digest: str
    user: str
    label: str
    created: int
    expires: int


@dataclass(slots=True, eq=False)
class SaveToken:
    """Add a token, or replace the one that has its id."""

    token: Token
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class DropTokens:
    """Forget tokens by id; ids that are not there are passed over."""

    ids: Sequence[str]
    error: Exception | None = None


class Setting(NamedTuple):
    """What an administrator keeps, such as a user or a rule: ``kind`` says what it is, ``key`` which one."""

    kind: str
    key: str
    value: bytes


MAX_SETTING = 1 << 20
"""Bytes of a setting's value, at most."""


@dataclass(slots=True, eq=False)
class SaveSetting:
    """Add a setting, or replace the one of its kind that has its key. One larger than `MAX_SETTING` is refused."""

    kind: str
    key: str
    value: bytes
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class DropSetting:
    """Forget a setting; one that is not there is passed over."""

    kind: str
    key: str
    error: Exception | None = None
