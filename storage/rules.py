"""What the operations mean: each decision that every backend makes alike, once. No I/O.

A backend looks up what a rule needs, asks it, and stores the answer. What `storage.records` promises of an operation is decided
here; which rows or documents hold it is the backend's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, TypeVar

from storage.cluster import ADD, ENDED, HELD, LISTEN, REMOVE, Change
from storage.errors import IdempotencyConflict, MessageRefused, RowChanged
from storage.messages import Append, DeviceKey, Message
from storage.records import (
    MAX_ROW,
    MAX_ROW_NAME,
    MAX_SETTING,
    CloseSession,
    Device,
    DropRow,
    MarkRead,
    OpenSession,
    Progress,
    PutRow,
    SaveSetting,
    Subscription,
    Token,
)

T = TypeVar("T")


# --- messages ------------------------------------------------------------------------------------------------------


def refuse_unstored(op: Append) -> None:
    """Raise `MessageRefused` for a message that is not stored and has recipients: their entries would point to nothing."""
    if not op.store and op.recipients:
        raise MessageRefused("a message that is not stored cannot have recipients")


def content_digest(message: Message) -> bytes:
    """16 bytes that two appends under one idempotency key must have in common: of topic and payload."""
    digest = hashlib.blake2b(message.topic.encode(), digest_size=16)
    digest.update(b"\0")  # no topic holds U+0000, so the pair is encoded without ambiguity
    digest.update(message.payload)
    return digest.digest()


def content_of(op: Append) -> bytes:
    """The digest of what an append's publisher sent."""
    return op.content or content_digest(op.message)


class Once(NamedTuple):
    """What an idempotency key was used for: the content's digest, message id, conversation sequence, and until when (ms)."""

    digest: bytes
    message: int
    seq: int
    until: int


def used_now(op: Append, seq: int) -> Once:
    """What is remembered of an append's key; ``seq`` is the message's sequence, 0 where it is not stored."""
    return Once(content_of(op), op.message.id, seq, op.idempotency_until)


def asked_at(op: Append) -> int:
    """When an append's key is looked at, in ms."""
    return op.idempotency_at or op.message.time


def repeated(op: Append, known: Once | None) -> tuple[int, int] | None:
    """The message that an append with a key repeats, as id and sequence; None for a first use.

    A key is free again from its ``until`` on. A message that meets its own key is one that is tried again, and no repeat.
    Raises `IdempotencyConflict` where the key was used for another content, and its `Append.refusal` for one that may only be a
    repeat, and is none; such an append changes nothing at all.
    """
    if known is None or known.until <= asked_at(op) or known.message == op.message.id:
        if op.refusal is not None:
            raise op.refusal
        return None
    if known.digest != content_of(op):
        raise IdempotencyConflict(f"idempotency key {op.idempotency_key!r} was used for another message")
    return known.message, known.seq


def within(page: Iterable[T], max_bytes: int, size: Callable[[T], int]) -> list[T]:
    """A page up to the item with which its sizes reach ``max_bytes``: one at least, where there is one."""
    kept, total = [], 0
    for item in page:
        if total >= max_bytes:
            break
        kept.append(item)
        total += size(item)
    return kept


# --- sessions ------------------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """`OpenSession.start`, parsed: ``kind`` is latest, earliest, last or since; ``number`` belongs to the last two."""

    kind: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Start:
        """Raises `MessageRefused` for anything else."""
        kind, colon, number = text.partition(":")
        if kind in ("latest", "earliest") and not colon:
            return cls(kind)
        if kind in ("last", "since") and number.isascii() and number.isdigit():
            return cls(kind, int(number))
        raise MessageRefused(f"start {text!r}: must be latest, earliest, last:<entries> or since:<milliseconds>")

    def offset(self, head: int, floor: Callable[[], int], before: Callable[[int], int]) -> int:
        """The offset of a new device of an inbox whose last sequence is ``head``.

        ``floor`` looks up the last sequence that was removed, ``before`` the one before the first entry of a time or later.
        Only what the answer needs is looked up.
        """
        if self.kind == "latest":
            return head
        if self.kind == "earliest":
            return floor()
        if self.kind == "last":
            return max(floor(), head - self.number)
        return before(self.number)


def is_older(epoch: int, kept: int) -> bool:
    """Whether an operation's epoch is older than its device's, which it then leaves as it is."""
    return epoch < kept


def is_late(epoch: int, device: Device, node: int) -> bool:
    """In a cluster: whether an operation of ``node`` is of a connection that has lost its device. Of two nodes that open one
    with the same epoch one was refused, and may have more of that epoch on its way."""
    return is_older(epoch, device.epoch) or (epoch == device.epoch and device.node not in (0, node))


def current(device: Device | None, epoch: int) -> Device | None:
    """The device that an operation of an epoch changes; None for one that is not kept, or goes on under a later epoch."""
    return None if device is None or is_older(epoch, device.epoch) else device


def new_device(op: OpenSession, offset: int) -> Device:
    """The device that a session makes, before it begins."""
    return Device(op.device, created_at=op.at, offset=offset, cursor=offset)


def made_by(epoch: int, created_at: int, op: OpenSession) -> bool:
    """Whether this very operation made the device that is there: it is applied again, as where its answer was lost. Of a
    group, which several nodes may open alike, it is not known."""
    return not op.shared and (epoch, created_at) == (op.epoch, op.at)


def begin(device: Device, op: OpenSession) -> None:
    """A device's connection begins: nothing of it is due while it lasts."""
    device.epoch, device.expiry, device.will = op.epoch, op.expiry, op.will
    device.expires_at = device.will_at = 0
    device.restored = False


def end(device: Device, op: CloseSession) -> None:
    """A device's connection ended, and the device is kept."""
    device.expiry, device.expires_at, device.will, device.will_at = op.expiry, op.expires_at, op.will, op.will_at


def advance(device: Device, op: Progress) -> None:
    """A device's progress takes the place of what was known."""
    device.offset, device.cursor, device.inflight = op.offset, op.cursor, list(op.inflight)


def since(new: Subscription, kept: int | None, head: int) -> int:
    """A subscription's `Subscription.since`; ``kept`` is that of the same filter in the same session, None where it is new."""
    if kept is not None:
        return kept
    return head if new.since < 0 else new.since


# --- what the nodes of a cluster are told --------------------------------------------------------------------------


class Standing(NamedTuple):
    """What nodes know of a device, before a group or after it. ``filters``: those that the group touches will do, but all where
    the session ends, or another one takes its place, in the group."""

    epoch: int
    node: int
    filters: Collection[str]


class Changes(NamedTuple):
    """What a group appends to the routes: before it writes anything else, and after all that it wrote."""

    first: list[Change]
    last: list[Change]


def changes(key: DeviceKey, before: Standing | None, after: Standing | None) -> Changes:
    """What a group that a device went through has to tell; None where it is not kept. What stands already is not told again.

    Who is to get more is told first, who is to get less last: a node that dies in between has told too much, never too little.
    """
    old, had, was = before or Standing(0, 0, ()), before is not None, set(before.filters if before else ())
    if after is None:
        ended = [Change(REMOVE, *key, name, old.epoch) for name in old.filters]
        return Changes([], [*ended, Change(ENDED, *key, epoch=old.epoch)] if had else [])
    held = Change(HELD, *key, epoch=after.epoch, node=after.node)
    moved = (old.epoch, old.node) != (after.epoch, after.node)
    first = [held] if moved and (after.node or not old.node) else []
    first += [Change(ADD, *key, name, after.epoch) for name in after.filters if name not in was]
    last = [Change(REMOVE, *key, name, after.epoch) for name in old.filters if name not in after.filters]
    return Changes(first, [*last, held] if moved and old.node and not after.node else last)


def announced(changes: Iterable[Change]) -> Changes:
    """The changes of a `storage.records.Announce`, each at its place."""
    found = Changes([], [])
    for change in changes:
        more = change.kind in (ADD, LISTEN) or (change.kind == HELD and change.node)
        (found.first if more else found.last).append(change)
    return found


# --- what plugins keep ---------------------------------------------------------------------------------------------


def read_position(op: MarkRead, before: int, last: int) -> int:
    """Where a read position stands after ``op``: ``before`` it was there, ``last`` is the conversation's last sequence."""
    return min(last, op.seq if op.back else max(op.seq, before))


def refuse_large_setting(op: SaveSetting) -> None:
    """Raises `MessageRefused` for a setting that is too large."""
    if len(op.value) > MAX_SETTING:
        raise MessageRefused(f"setting {op.key[:100]!r} of {len(op.value)} bytes: at most {MAX_SETTING} are stored")


def changes_row(op: PutRow | DropRow, revision: int) -> bool:
    """Whether an operation changes its row, which is at ``revision`` (0: is not there). What it says of a message that was
    refused, or is a repeat, changes nothing.

    Raises `MessageRefused` for what cannot be stored, and `RowChanged` where another revision was expected.
    """
    if is_of_none(op):
        return False
    if isinstance(op, PutRow):
        _refuse_unstorable_row(op)
    elif not revision:
        return False
    if op.expected is not None and op.expected != revision:
        raise RowChanged(op.table, op.part, op.key, op.expected, revision)
    return True


def is_of_none(op: PutRow | DropRow) -> bool:
    """Whether it says something of a message that was refused, or is a repeat."""
    return op.of is not None and (op.of.error is not None or op.of.original is not None)


def _refuse_unstorable_row(op: PutRow) -> None:
    if len(op.value) > MAX_ROW:
        raise MessageRefused(f"row {op.key[:100]!r} of {len(op.value)} bytes: at most {MAX_ROW} are stored")
    if not op.key:
        raise MessageRefused(f"a row of {op.table[:100]!r}, {op.part[:100]!r} has no key")
    for name in (op.table, op.part, op.key):
        try:
            size = len(name) if name.isascii() else len(name.encode())
        except UnicodeEncodeError:
            raise MessageRefused(f"row name {name[:100]!r}: only Unicode text is stored") from None
        if size > MAX_ROW_NAME:
            raise MessageRefused(f"row name {name[:100]!r} of {size} bytes: at most {MAX_ROW_NAME} are stored")


def by_creation(tokens: Iterable[Token]) -> list[Token]:
    """Tokens in the order in which they are listed."""
    return sorted(tokens, key=lambda token: (token.created, token.id))
