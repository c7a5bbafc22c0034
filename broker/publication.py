"""What is published, as the broker handles it: storage's records, and beside them what concerns the broker alone.

Storage is given a `Publication` as the `Append` that it is, and looks at nothing that is added here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from storage.records import Append, Message


class Outgoing(Message):
    """A message on its way to those it reaches now. ``frames`` are its PUBLISH frames by shape, which all of them share
    (`broker.delivery.frames`).

    What is read from storage later is a plain `Message`: it is for one reader, and its frames are built for that one.
    """

    __slots__ = ("frames",)

    def __init__(self, topic: str, user: str, device: str, qos: int, payload: bytes, retain: bool = False) -> None:
        super().__init__(0, topic, user, device, 0, qos, payload, retain)
        self.frames: list[tuple[bytes, bytes] | None] | None = None

    @classmethod
    def of(cls, message: Message) -> Outgoing:
        """The same for a message that came from elsewhere, and is for several readers here."""
        made = cls(message.topic, message.user, message.device, message.qos, message.payload, message.retain)
        made.id, made.time, made.seq = message.id, message.time, message.seq
        made.expires, made.properties = message.expires, message.properties
        return made


class Origin(Protocol):
    """Who published a message, and waits to hear what came of it."""

    def stored(self, publication: Publication, acks: dict[Any, list[bytes]]) -> None:
        """The message is durable, or has an ``error``. ``acks`` gathers the frames to write, by connection."""


class Publication(Append):
    """A message in the pipeline.

    ``origin`` is told of the outcome; None where nobody waits for it, as of a will. ``matched`` is whom the message reaches
    (`broker.routing`), as of its place in the order; None until it has one, and false where it reaches nobody.
    """

    __slots__ = ("matched", "origin", "publisher", "sent_to", "span")

    def __init__(
        self,
        message: Outgoing,
        origin: Origin | None = None,
        store: bool = True,
        retain: bool = False,
        idempotency_key: str = "",
        idempotency_until: int = 0,
        idempotency_at: int = 0,
    ) -> None:
        super().__init__(message, (), store, retain, None, idempotency_key, idempotency_until, idempotency_at)
        self.origin = origin
        self.matched: object = None
        self.span: object = None
        """What a plugin that records spans noted of its arrival."""
        self.publisher: object = None
        """Whom access control is asked about (`broker.access.SessionInfo`), where ``origin`` does not know."""
        self.sent_to = ""
        """The topic that its publisher named, where a plugin has given it another."""

    @property
    def readers(self) -> Iterable[str]:
        """The users who share the message's entry, where it goes to a channel."""
        users: Iterable[str] = getattr(self.matched, "users", ()) if self.recipients else ()
        return users
