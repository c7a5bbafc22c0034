"""Messages, whom they are due to, and the operation that stores one: the records that every publish meets.

Apart from the other records because this module is among those that `make compile` turns into C (setup.py): hence classes
written out, which keep their slots in both builds. Import the names from `storage.records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from storage.errors import MessageRefused

RECALLED = "tideline-recalled"
"""The user property of a message whose content is gone; its value is the id of the message that recalled it."""

RECALLED_MARK = b"\x26" + len(RECALLED).to_bytes(2, "big") + RECALLED.encode()
"""An MQTT 5 user property (0x26, 2.2.2.2) of that name, without its value."""


def recalled_mark(by: int) -> bytes:
    """The properties of a message that the message ``by`` recalled: as on the wire, so that they travel as any others."""
    value = b"%016x" % by
    return RECALLED_MARK + len(value).to_bytes(2, "big") + value


EXPIRES_AT_ONCE: Final = 1
"""`Message.expires` of an expiry interval of 0: past for every reader, so only who is live when it is committed is given it."""


class DeviceKey(NamedTuple):
    """A device: the user key that owns it and its client id."""

    user: str
    client_id: str


@mypyc_attr(acyclic=True)
class Message:
    """One published message, as the conversation keeps it.

    ``id`` is a positive 63-bit integer, unique in the database; ids of one node rise in commit order.
    ``seq`` is the conversation sequence: 0 until committed, and for a message that is not stored.
    ``time`` is the server time; it never goes backwards within a conversation.
    ``expires`` is the time after which nobody new is given the message; 0 is never.
    ``properties`` are the MQTT 5 publish properties that travel with the message, as encoded on the wire
    without their length (no topic alias, no subscription identifier, no message expiry); empty for none.
    """

    __slots__ = (
        "device",
        "expires",
        "id",
        "payload",
        "properties",
        "qos",
        "retain",
        "seq",
        "time",
        "topic",
        "user",
    )

    def __init__(
        self,
        id: int,
        topic: str,
        user: str,
        device: str,
        time: int,
        qos: int,
        payload: bytes,
        retain: bool = False,
        expires: int = 0,
        properties: bytes = b"",
        seq: int = 0,
    ) -> None:
        self.id = id
        self.topic = topic
        self.user = user
        self.device = device
        self.time = time
        self.qos = qos
        self.payload = payload
        self.retain = retain
        self.expires = expires
        self.properties = properties
        self.seq = seq

    def expired(self, now: int, live: bool = False) -> bool:
        """Whether the message has expired at ``now`` (ms). One whose interval is 0 has not for who is ``live``: who has it
        right from the commit."""
        return 0 < self.expires <= now and not (live and self.expires == EXPIRES_AT_ONCE)

    @property
    def recalled(self) -> bool:
        """Whether its content is gone: it keeps its place, without payload, and its properties say by which message
        (`recalled_mark`)."""
        return not self.payload and self.properties.startswith(RECALLED_MARK)

    def without_content(self, by: int) -> Message:
        """What is left of it once the message ``by`` has recalled it: its place, and who sent it when."""
        m = self
        return Message(m.id, m.topic, m.user, m.device, m.time, m.qos, b"", m.retain, m.expires, recalled_mark(by), m.seq)

    def __repr__(self) -> str:
        return f"Message(id={self.id}, topic={self.topic!r}, seq={self.seq}, user={self.user!r}, payload={self.payload[:40]!r})"


@mypyc_attr(acyclic=True)
class InboxEntry:
    """One entry of an inbox.

    ``message`` is None where retention has removed it. ``target`` is the only client id that the entry is for (a
    retained message sent to a new subscription), or empty for every device of the user.
    """

    __slots__ = ("message", "seq", "target")

    def __init__(self, seq: int, message: Message | None, target: str = "") -> None:
        self.seq = seq
        self.message = message
        self.target = target

    def __repr__(self) -> str:
        return f"InboxEntry(seq={self.seq}, message={self.message!r}, target={self.target!r})"


class Subscription:
    """One subscription of a device.

    ``options`` is the MQTT 5 subscription options byte (QoS in bits 0-1, No Local 2, Retain As Published 3, Retain
    Handling 4-5). ``identifier`` is the subscription identifier, 0 for none. Entries of the inbox up to and
    including ``since`` are not due to it.
    """

    __slots__ = ("filter", "identifier", "options", "since")

    def __init__(self, filter: str, options: int, identifier: int = 0, since: int = 0) -> None:
        self.filter = filter
        self.options = options
        self.identifier = identifier
        self.since = since

    def copy(self) -> Subscription:
        """One of its own, for who keeps it."""
        return Subscription(self.filter, self.options, self.identifier, self.since)

    def _fields(self) -> tuple[object, ...]:
        return self.filter, self.options, self.identifier, self.since

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Subscription) else NotImplemented

    def __repr__(self) -> str:
        return f"Subscription({self.filter!r}, {self.options}, identifier={self.identifier}, since={self.since})"


class Append:
    """Store a message and give it to its recipients.

    ``store`` False keeps it out of the conversation; with recipients it is then refused. ``retain`` replaces the
    topic's retained message, or clears it where the payload is empty. ``received`` is the inbound QoS 2 state
    (device, packet id) that becomes durable together with the message, also for a repeat; a device that is not kept has
    none. ``epoch`` is that of the durable session that published the message, ``message.user`` and ``message.device``; 0 of all
    else. ``idempotency_key`` makes the append happen once per (message.user, key) from ``idempotency_at`` (0: the message's
    time) to ``idempotency_until``, both in ms of one clock: a repeat with equal topic and payload stores nothing and answers
    ``original``; one with another content gets an ``error``.
    ``content`` is the digest of what its publisher sent (`storage.rules.content_digest`), where the broker has changed that: a
    repeat is known by it. Empty: the message is as it was sent.

    ``refusal`` is why the message may not be stored, where it has a key: it is then taken only as the repeat that it may be,
    and gets this as its ``error`` where it is none. Nothing of it is stored either way, nor is its key. In a cluster the
    ``error`` is `Unfinished` where another node is about to store what it repeats.

    ``recalls`` are ids of earlier messages of the same topic whose content goes as this one comes, in the same commit: of each
    the payload and the properties, where it is stored (`recalled_mark` takes their place) and where it is retained (the topic
    then has none). Ids that the topic has not, and what was recalled before, are passed over.

    Filled by commit: ``message.seq``, ``message.time`` (raised where the conversation is ahead),
    ``inbox_seqs`` (parallel to ``recipients``), ``original`` (message id and conversation sequence of the one stored earlier
    under the key), ``error``. What a subclass adds is its maker's own: storage takes it for an `Append`.
    """

    __slots__ = (
        "content",
        "epoch",
        "error",
        "idempotency_at",
        "idempotency_key",
        "idempotency_until",
        "inbox_seqs",
        "message",
        "original",
        "recalls",
        "received",
        "recipients",
        "refusal",
        "retain",
        "store",
    )

    def __init__(
        self,
        message: Message,
        recipients: Sequence[str] = (),
        store: bool = True,
        retain: bool = False,
        received: tuple[DeviceKey, int] | None = None,
        idempotency_key: str = "",
        idempotency_until: int = 0,
        idempotency_at: int = 0,
        error: Exception | None = None,
    ) -> None:
        self.message = message
        self.recipients = recipients
        self.store = store
        self.retain = retain
        self.received = received
        self.epoch = 0
        self.content = b""
        self.idempotency_key = idempotency_key
        self.idempotency_until = idempotency_until
        self.idempotency_at = idempotency_at
        self.recalls: Sequence[int] = ()
        self.inbox_seqs: Sequence[int] = ()
        self.refusal: MessageRefused | None = None
        self.original: tuple[int, int] | None = None
        self.error = error

    def __repr__(self) -> str:
        return f"Append({self.message!r}, recipients={self.recipients!r}, inbox_seqs={self.inbox_seqs!r}, error={self.error!r})"
