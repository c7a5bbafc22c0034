"""What one node has for another, as bytes. No I/O.

Each message is there once, however many inboxes have it, and what refers to it names its place. Stored messages over `INLINE`
bytes are left out: the receiver reads them from the store. A large parcel is cut into parts that fit into documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bson import decode, encode

from storage.cluster import Note, Parcel, Wake
from storage.messages import Message

INLINE = 4096
"""Bytes of payload and properties of the largest stored message that travels with a parcel."""
PART = 4 << 20
"""Bytes of a part."""


def pack(parcel: Parcel, number: int) -> list[bytes]:
    """The parts of a parcel of the node of that number, in their order; one at least."""
    messages: list[list[object]] = []
    places: dict[int, int] = {}

    def place(message: Message) -> int:
        if message.id not in places:
            places[message.id] = len(messages)
            messages.append(_fields(message))
        return places[message.id]

    def place_of_stored(message: Message | None) -> int:
        return -1 if message is None or len(message.payload) + len(message.properties) > INLINE else place(message)

    body = {
        "wakes": [[wake.user, wake.seq, place_of_stored(wake.message), wake.target] for wake in parcel.wakes],
        "live": [[place_of_stored(message), message.id] for message in parcel.live],
        "transient": [place(message) for message in parcel.transient],
        "notes": [[note.kind, note.id, dict(note.body)] for note in parcel.notes],
        "messages": messages,
    }
    data = encode({"number": number, **{name: items for name, items in body.items() if items}})
    return [data[start : start + PART] for start in range(0, len(data), PART)]


def unpack(parts: Sequence[bytes]) -> tuple[Parcel, list[int]]:
    """A parcel, and the ids of messages that are to be read for its ``live``, where each has an empty place: see `filled`."""
    body: dict[str, Any] = decode(b"".join(parts))
    messages = [Message(*fields) for fields in body.get("messages", ())]
    live = body.get("live", ())
    parcel = Parcel(
        [
            Wake(user, seq, messages[place] if place >= 0 else None, target)
            for user, seq, place, target in body.get("wakes", ())
        ],
        [messages[place] if place >= 0 else Message(message_id, "", "", "", 0, 0, b"") for place, message_id in live],
        [messages[place] for place in body.get("transient", ())],
        [Note(*note) for note in body.get("notes", ())],
        number=body.get("number", -1),
    )
    return parcel, [message_id for place, message_id in live if place < 0]


def filled(live: Iterable[Message], read: Iterable[Message]) -> Iterator[Message]:
    """Messages with those that were ``read`` in their empty places; one that the store has no more is left out."""
    found = {message.id: message for message in read}
    for message in live:
        if message.topic:
            yield message
        elif message.id in found:
            yield found[message.id]


def _fields(message: Message) -> list[object]:
    return [
        message.id,
        message.topic,
        message.user,
        message.device,
        message.time,
        message.qos,
        message.payload,
        message.retain,
        message.expires,
        message.properties,
        message.seq,
    ]
