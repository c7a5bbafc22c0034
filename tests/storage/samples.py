"""Builders of operations, and the fields of records as plain tuples to compare."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from storage.interface import RetainedReader, Storage
from storage.records import (
    Append,
    Device,
    DeviceKey,
    DropRow,
    Message,
    OpenSession,
    Operation,
    PutRow,
    Row,
    Subscribe,
    Subscription,
)

START = 1_700_000_000_000

T = TypeVar("T")


def numbered(count: int, number: int) -> int:
    """A message id of the node with this number, as `broker.ids` makes them; those of a higher count are higher."""
    return count << 22 | number << 12


class Maker:
    """Makes messages with rising ids and times. ``number``: of the node whose ids they are to be; None leaves it out."""

    def __init__(self) -> None:
        self.id = 0
        self.number: int | None = None

    def message(self, topic: str = "a/b", payload: bytes | None = None, **fields: Any) -> Message:
        self.id += 1
        return Message(
            id=self.id if self.number is None else numbered(self.id, self.number),
            topic=topic,
            user=fields.pop("user", "u/ann"),
            device=fields.pop("device", "phone"),
            time=fields.pop("time", START + self.id),
            qos=fields.pop("qos", 1),
            payload=b"payload %d" % self.id if payload is None else payload,
            **fields,
        )

    def append(self, topic: str = "a/b", to: Sequence[str] = (), payload: bytes | None = None, **fields: Any) -> Append:
        names = ("store", "retain", "received", "idempotency_key", "idempotency_until")
        recalls = fields.pop("recalls", ())
        given = {name: fields.pop(name) for name in names if name in fields}
        message = self.message(topic, payload, retain=given.get("retain", False), **fields)
        append = Append(message, recipients=to, **given)
        append.recalls = recalls
        return append

    def appends(self, count: int, topic: str = "a/b", to: Sequence[str] = ()) -> list[Append]:
        return [self.append(topic, to) for _ in range(count)]


def opened(key: DeviceKey, epoch: int = 1, *, clean: bool = False, **fields: Any) -> OpenSession:
    return OpenSession(key, epoch, clean, fields.pop("expiry", 3600), **fields)


def subscribe(key: DeviceKey, *filters: str, epoch: int = 1, options: int = 1, since: int = -1, **fields: Any) -> Subscribe:
    return Subscribe(key, epoch, [Subscription(name, options, since=since) for name in filters], **fields)


def fields_of(message: Message | None) -> tuple[object, ...] | None:
    """Everything of a message that is stored."""
    if message is None:
        return None
    m = message
    return (
        m.id,
        m.topic,
        m.user,
        m.device,
        m.time,
        m.qos,
        bytes(m.payload),
        bool(m.retain),
        m.expires,
        bytes(m.properties),
        m.seq,
    )


def results(group: Sequence[Operation]) -> list[object]:
    """All that a commit filled in."""
    found: list[object] = []
    for op in group:
        if isinstance(op, Append):
            found.append((fields_of(op.message), list(op.inbox_seqs), op.original, op.error))
        elif isinstance(op, Subscribe):
            found.append(([s.since for s in op.subscriptions], list(op.retained_seqs), op.error))
        elif isinstance(op, PutRow | DropRow):
            found.append((op.revision > 0, op.error))  # which one it is, is the backend's
        else:
            names = ("created", "head", "offset", "position", "last")
            found.append((*(getattr(op, name, None) for name in names), op.error))
    return found


def device_fields(device: Device | None) -> dict[str, object] | None:
    """Everything of a device that is stored."""
    if device is None:
        return None
    return {
        "key": device.key,
        "epoch": device.epoch,
        "expiry": device.expiry,
        "expires_at": device.expires_at,
        "created_at": device.created_at,
        "offset": device.offset,
        "cursor": device.cursor,
        "inflight": list(device.inflight),
        "subscriptions": {n: (s.filter, s.options, s.identifier, s.since) for n, s in device.subscriptions.items()},
        "received": set(device.received),
        "will": device.will,
        "will_at": device.will_at,
    }


async def collect(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


async def whole_inbox(storage: Storage, user: str) -> list[tuple[int, object, str]]:
    """Every entry of an inbox, in pages of 3: (seq, message fields, target)."""
    entries: list[tuple[int, object, str]] = []
    after = 0
    while page := await storage.read_inbox(user, after, 3):
        entries += [(entry.seq, fields_of(entry.message), entry.target) for entry in page]
        after = page[-1].seq
    return entries


async def all_retained(storage: RetainedReader, limit: int = 100) -> list[Message]:
    """Every retained message, by topic, in pages."""
    messages: list[Message] = []
    while page := await storage.retained_range("", messages[-1].topic if messages else "", limit):
        messages += page
    return messages


async def whole_conversation(storage: Storage, topic: str) -> list[object]:
    """Fields of every message of a conversation, in pages of 3."""
    messages: list[object] = []
    after = 0
    while page := await storage.read_conversation(topic, after=after, limit=3):
        messages += [fields_of(message) for message in page]
        after = page[-1].seq
    return messages


async def all_rows(storage: Storage, table: str = "t") -> list[Row]:
    """Every row of a table, in pages of 2."""
    found: list[Row] = []
    async for parts in storage.parts(table):
        for part in parts:
            after = ""
            while page := await storage.rows(table, part, after=after, limit=2):
                found += page
                after = page[-1].key
    return found


async def everything(storage: Storage, topics: Sequence[str], users: Sequence[str]) -> dict[str, object]:
    """All that a database holds, to compare before and after."""
    return {
        "conversations": {topic: await whole_conversation(storage, topic) for topic in topics},
        "bounds": {topic: await storage.conversation_bounds(topic) for topic in topics},
        "inboxes": {user: await whole_inbox(storage, user) for user in users},
        "heads": {user: await storage.inbox_head(user) for user in users},
        "devices": {device.key: device_fields(device) for device in await collect(storage.devices())},
        "retained": {message.topic: fields_of(message) for message in await all_retained(storage)},
        "rows": [(*row[:3], row.value) for row in await all_rows(storage)],
        "last_id": await storage.last_id(),
    }
