"""What is published, as the broker handles it: storage's records, and beside them what concerns the broker alone.

Storage is given a `Publication` as the `Append` that it is, and looks at nothing that is added here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

from mypy_extensions import mypyc_attr

from storage.records import Append, Message

_NO_FRAME: Final = (b"", b"")


@mypyc_attr(acyclic=True)
class Outgoing(Message):
    """A message on its way to those it reaches now. ``frame`` is its PUBLISH frame in the first ``shape`` that was asked for,
    ``frames`` those in others by shape: all of them share these (`broker.delivery.frames`).

    What is read from storage later is a plain `Message`: it is for one reader, and its frames are built for that one.
    """

    __slots__ = ("frame", "frames", "shape")

    def __init__(self, topic: str, user: str, device: str, qos: int, payload: bytes, retain: bool = False) -> None:
        super().__init__(0, topic, user, device, 0, qos, payload, retain)
        self.shape = -1
        self.frame: tuple[bytes, bytes] = _NO_FRAME
        self.frames: dict[int, tuple[bytes, bytes]] | None = None

    @classmethod
    def of(cls, message: Message) -> Outgoing:
        """The same for a message that came from elsewhere, and is for several readers here."""
        made = cls(message.topic, message.user, message.device, message.qos, message.payload, message.retain)
        made.id, made.time, made.seq = message.id, message.time, message.seq
        made.expires, made.properties = message.expires, message.properties
        return made


class Acknowledged(ABC):
    """Whoever acknowledgements are written to: a client's connection."""

    __slots__ = ("acks",)

    def __init__(self) -> None:
        self.acks: bytes | list[bytes] | None = None
        """Those of a group that are not written yet. Of a fleet, each connection has one."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Who this is, for logs."""

    @property
    def about(self) -> dict[str, str]:
        """The same for logs that programs read: the fields of a line, by name."""
        return {}

    @abstractmethod
    def write_frame(self, frame: bytes) -> None:
        """Write one encoded packet, as `write_frames` does."""

    @abstractmethod
    def write_frames(self, frames: list[bytes]) -> None:
        """Write encoded packets; the caller has looked at `writable` where it can wait."""

    def take_acks(self) -> list[bytes]:
        """Those that are not written yet: now they are the caller's."""
        acks, self.acks = self.acks, None
        if acks is None:
            return []
        return acks if isinstance(acks, list) else [acks]


class Acks:
    """The acknowledgements of a group: ``waiting`` are who has any, some perhaps twice. Each is written to once."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Acknowledged] = []

    def add(self, connection: Acknowledged, frame: bytes) -> None:
        """One more, behind those that the connection has."""
        there = connection.acks
        if there is None:
            connection.acks = frame
            self.waiting.append(connection)
        elif isinstance(there, list):
            there.append(frame)
        else:
            connection.acks = [there, frame]


@mypyc_attr(allow_interpreted_subclasses=True, acyclic=True)
class Origin:
    """Who published a message, and waits to hear what came of it. A base class, as `broker.sessions.Link` is."""

    __slots__ = ()

    def stored(self, publication: Publication, acks: Acks) -> None:
        """The message is durable, or has an ``error``. ``acks`` gathers the frames to write."""


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
