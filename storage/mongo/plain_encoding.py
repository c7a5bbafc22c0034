"""Messages of the store, and inbox entries, as BSON: a dictionary for each, and the driver's encoder. No I/O.

It is used where `storage.mongo.fast_encoding` cannot be, and says what that has to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bson import Int64, encode

from storage.cluster import number_of
from storage.mongo.codec import fields_beside, once_key, pack_places
from storage.mongo.documents import Raw, timeline_key
from storage.records import Append

Numbered = tuple[Append, int, int, Sequence[str], list[int]]
"""A message, its sequence and time, its recipients, and for each of them where its entry would be by now."""
Entry = tuple[str, int, int, int, int, str, bytes]
"""An inbox entry: user, sequence, message id, size, time, target, turns."""
Rows = Mapping[int, Sequence[object]]
"""By message id: what is written for it."""


def encode_messages(messages: Sequence[Numbered], version: int, rows: Rows, most: int) -> tuple[bytes, int]:
    """As many of the messages as have ``most`` bytes together, and one at least: their bytes, and how many they are."""
    return _fitting((_message(numbered, version, rows) for numbered in messages), most)


def encode_entries(entries: Sequence[Entry], most: int) -> tuple[bytes, int]:
    """The same of inbox entries."""
    return _fitting(map(_entry, entries), most)


def encode_in_turn(
    messages: Sequence[Numbered], entries: Sequence[Entry], version: int, rows: Rows, most: int
) -> tuple[bytes, int]:
    """Messages and then entries as the inserts of a ``bulkWrite``, whose first collection is the store, and its second sync;
    how many they are. None, where all of them have more than ``most`` bytes."""
    inserts: list[Raw] = [{"insert": 0, "document": _message(numbered, version, rows)} for numbered in messages]
    inserts += [{"insert": 1, "document": _entry(entry)} for entry in entries]
    raw = b"".join(map(encode, inserts))
    return (raw, len(inserts)) if len(raw) <= most else (b"", 0)


def message_size(numbered: Numbered, version: int) -> int:
    """Bytes of a message in the store, without what is written for it."""
    return len(encode(_message(numbered, version, {})))


def _fitting(documents: Iterable[Raw], most: int) -> tuple[bytes, int]:
    some: list[bytes] = []
    size = 0
    for document in documents:
        raw = encode(document)
        size += len(raw)
        if some and size > most:
            break
        some.append(raw)
    return b"".join(some), len(some)


def _message(numbered: Numbered, version: int, rows: Rows) -> Raw:
    op, seq, time, recipients, places = numbered
    message = op.message
    document: Raw = {
        "_id": timeline_key(message.topic, seq),
        "topic": message.topic,
        "seq": Int64(seq),
        "mid": Int64(message.id),
        "user": message.user,
        "device": message.device,
        "time": Int64(time),
        "qos": message.qos,
        "payload": message.payload,
        "v": Int64(version),
        "writer": number_of(message.id),
    }
    if recipients:
        document |= {"recipients": list(recipients), "places": pack_places(places)}
    return document | rarely(op, rows.get(message.id))


def rarely(op: Append, told: Sequence[object] | None) -> Raw:
    """What few messages have."""
    fields = fields_beside(op.message)
    if op.received is not None:
        key, packet_id = op.received
        fields["received"] = [key.user, key.client_id, packet_id]
    if op.retain:
        fields["keep"] = True
    if op.idempotency_key:
        fields["once"] = once_key(op.message.user, op.idempotency_key)
        fields["once_until"] = op.idempotency_until
        if op.content:
            fields["once_content"] = op.content
    if op.recalls:
        fields["recalls"] = list(op.recalls)
    if told:
        fields["rows"] = told
    return fields


def _entry(entry: Entry) -> Raw:
    user, seq, mid, size, time, target, turns = entry
    document: Raw = {"_id": timeline_key(user, seq), "user": user, "seq": Int64(seq), "mid": Int64(mid)}
    document |= {"size": size, "time": Int64(time)}
    return document | {name: value for name, value in (("target", target), ("turns", turns)) if value}
