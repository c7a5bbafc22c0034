"""What an app sees: messages, what it sends, and receipts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the broker has it. ``seq`` is its place in the conversation ``topic``; ``time`` is in ms since 1970."""

    id: str
    topic: str
    seq: int
    sender: str
    time: int
    payload: bytes

    @property
    def text(self) -> str:
        """The payload as UTF-8; what is none is replaced."""
        return self.payload.decode(errors="replace")

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Message:
        """From an answer of the broker."""
        encoding, value = fields["encoding"], fields["payload"]
        if encoding == "base64":
            payload = base64.b64decode(value)
        else:
            payload = value.encode() if encoding == "text" else json.dumps(value, ensure_ascii=False).encode()
        return cls(fields["id"], fields["topic"], fields["seq"], fields["sender"], fields["time"], payload)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is still to be stored by the broker. ``reason`` says why it never will be; empty while it waits."""

    key: str
    topic: str
    payload: bytes
    receipt: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far a message is: ``state`` is stored, delivered, acknowledged or read; ``key`` is what `Client.send` gave. ``of`` is
    None while the broker has not counted a large group."""

    message: str
    key: str | None
    topic: str
    seq: int
    state: str
    count: int | None
    of: int | None
    users: tuple[str, ...]

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Receipt:
        """From an event of the broker."""
        message, key, topic, seq = fields["message"], fields["message_id"], fields["topic"], fields["seq"]
        return cls(message, key, topic, seq, fields["state"], fields["count"], fields["of"], tuple(fields["users"]))
