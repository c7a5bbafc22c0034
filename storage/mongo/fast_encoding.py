"""Messages of the store, and inbox entries, as BSON: what every message passes. No I/O.

It makes the very bytes that `storage.mongo.plain_encoding` makes by a dictionary for each and the driver's encoder. Those take
half as long again, and ten times as long as what `make compile` makes of this. What few of them have goes through the driver's
encoder here too. `storage.mongo.encoding` says which of the two is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bson import Int64, encode
from librt.strings import BytesWriter, write_i32_le, write_i64_be, write_i64_le

from storage.cluster import number_of
from storage.mongo.codec import pack_places
from storage.mongo.documents import Raw
from storage.mongo.plain_encoding import Entry, Numbered, Rows, rarely

_DIGITS: Final = 16
_ZEROS: Final = tuple(b"0" * (_DIGITS - length) for length in range(_DIGITS + 1))
_NUMBER: Final = Int64(0)


def _size(document: Raw) -> int:
    return len(encode(document))


_KEY: Final = "\0" + _DIGITS * "0"
_EMPTY: Final = _size({})
# What each has beside its names and its payload.
_OP: Final = _size({"insert": 0, "document": {}}) - _EMPTY
_ENTRY: Final = _size({"_id": _KEY, "user": "", "seq": _NUMBER, "mid": _NUMBER, "size": 0, "time": _NUMBER})
_TO: Final = _size({"recipients": [""], "places": bytes(8)}) - _EMPTY
_MESSAGE: Final = (
    _size({"_id": _KEY, "topic": "", "seq": _NUMBER, "mid": _NUMBER, "user": "", "device": "", "time": _NUMBER, "qos": 0})
    + _size({"payload": b"", "v": _NUMBER, "writer": 0})
    - _EMPTY
)


def encode_messages(messages: Sequence[Numbered], version: int, rows: Rows, most: int) -> tuple[bytes, int]:
    """As many of the messages as have ``most`` bytes together, and one at least: their bytes, and how many they are."""
    writer = BytesWriter()
    count = 0
    for numbered in messages:
        before = len(writer)
        _write_message(writer, numbered, version, rows, -1)
        if count and len(writer) > most:
            writer.truncate(before)
            break
        count += 1
    return writer.getvalue(), count


def encode_entries(entries: Sequence[Entry], most: int) -> tuple[bytes, int]:
    """The same of inbox entries."""
    writer = BytesWriter()
    count = 0
    for entry in entries:
        before = len(writer)
        _write_entry(writer, entry, -1)
        if count and len(writer) > most:
            writer.truncate(before)
            break
        count += 1
    return writer.getvalue(), count


def encode_in_turn(
    messages: Sequence[Numbered], entries: Sequence[Entry], version: int, rows: Rows, most: int
) -> tuple[bytes, int]:
    """Messages and then entries as the inserts of a ``bulkWrite``, whose first collection is the store, and its second sync;
    how many they are. None, where all of them have more than ``most`` bytes."""
    writer = BytesWriter()
    for numbered in messages:
        _write_message(writer, numbered, version, rows, 0)
        if len(writer) > most:
            return b"", 0
    for entry in entries:
        _write_entry(writer, entry, 1)
    return (writer.getvalue(), len(messages) + len(entries)) if len(writer) <= most else (b"", 0)


def message_size(numbered: Numbered, version: int) -> int:
    """Bytes of a message in the store, without what is written for it."""
    return len(encode_messages([numbered], version, {}, 0)[0])


def _write_message(writer: BytesWriter, numbered: Numbered, version: int, rows: Rows, collection: int) -> None:
    """One of the store, with what another node needs to finish it. ``collection``: of a ``bulkWrite``, else -1."""
    op, seq, time, recipients, places = numbered
    message = op.message
    mid, payload = message.id, message.payload
    topic, user, device = message.topic.encode(), message.user.encode(), message.device.encode()
    size = _MESSAGE + 2 * len(topic) + len(user) + len(device) + len(payload)
    to = more = b""
    alone = len(recipients) == 1  # as most are
    if alone:
        to = recipients[0].encode()
        size += _TO + len(to)
    elif recipients:
        more = _fields({"recipients": list(recipients), "places": pack_places(places)})
    told = rows.get(mid) if rows else None
    beside = message.properties or message.expires or message.retain
    if beside or op.retain or op.received or op.idempotency_key or op.recalls or told:
        more += _fields(rarely(op, told))
    size += len(more)
    _begin(writer, size, collection)
    _write_key(writer, topic, seq)
    writer.write(b"\x02topic\0")
    _write_text(writer, topic)
    writer.write(b"\x12seq\0")
    write_i64_le(writer, seq)
    writer.write(b"\x12mid\0")
    write_i64_le(writer, mid)
    writer.write(b"\x02user\0")
    _write_text(writer, user)
    writer.write(b"\x02device\0")
    _write_text(writer, device)
    writer.write(b"\x12time\0")
    write_i64_le(writer, time)
    writer.write(b"\x10qos\0")
    write_i32_le(writer, message.qos)
    writer.write(b"\x05payload\0")
    write_i32_le(writer, len(payload))
    writer.append(0)
    writer.write(payload)
    writer.write(b"\x12v\0")
    write_i64_le(writer, version)
    writer.write(b"\x10writer\0")
    write_i32_le(writer, number_of(mid))
    if alone:
        writer.write(b"\x04recipients\0")
        write_i32_le(writer, _EMPTY + 8 + len(to))
        writer.write(b"\x020\0")
        _write_text(writer, to)
        writer.write(b"\0\x05places\0\x08\0\0\0\0")
        write_i64_be(writer, places[0])
    writer.write(more)
    _end(writer, collection)


def _write_entry(writer: BytesWriter, entry: Entry, collection: int) -> None:
    user, seq, mid, size, time, target, turns = entry
    name = user.encode()
    more = b""
    if target or turns:
        more = _fields({name: value for name, value in (("target", target), ("turns", turns)) if value})
    _begin(writer, _ENTRY + 2 * len(name) + len(more), collection)
    _write_key(writer, name, seq)
    writer.write(b"\x02user\0")
    _write_text(writer, name)
    writer.write(b"\x12seq\0")
    write_i64_le(writer, seq)
    writer.write(b"\x12mid\0")
    write_i64_le(writer, mid)
    writer.write(b"\x10size\0")
    write_i32_le(writer, size)
    writer.write(b"\x12time\0")
    write_i64_le(writer, time)
    writer.write(more)
    _end(writer, collection)


# --- the parts of a document -------------------------------------------------------------------------------------------


def _begin(writer: BytesWriter, size: int, collection: int) -> None:
    if collection >= 0:
        write_i32_le(writer, _OP + size)
        writer.write(b"\x10insert\0")
        write_i32_le(writer, collection)
        writer.write(b"\x03document\0")
    write_i32_le(writer, size)


def _end(writer: BytesWriter, collection: int) -> None:
    writer.append(0)
    if collection >= 0:
        writer.append(0)


def _write_key(writer: BytesWriter, name: bytes, seq: int) -> None:
    """`storage.mongo.documents.timeline_key`."""
    digits = str(seq).encode()
    writer.write(b"\x02_id\0")
    write_i32_le(writer, len(name) + _DIGITS + 2)
    writer.write(name)
    writer.append(0)
    writer.write(_ZEROS[len(digits)])
    writer.write(digits)
    writer.append(0)


def _write_text(writer: BytesWriter, text: bytes) -> None:
    write_i32_le(writer, len(text) + 1)
    writer.write(text)
    writer.append(0)


def _fields(document: Raw) -> bytes:
    """The fields of a document, to be put into another one."""
    return encode(document)[4:-1]
