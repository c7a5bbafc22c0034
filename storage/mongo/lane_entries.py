"""The entries of a lane: what those of a parcel hold, and how a reader goes on by one. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from storage.cluster import Parcel
from storage.mongo.documents import Raw
from storage.mongo.parcels import pack


@dataclass(slots=True)
class Lane:
    """What was read of a sender's lane: up to entry ``seq``, and the parts of a parcel that is not whole yet."""

    seq: int = 0
    removed: int = 0
    parcel: str = ""
    parts: list[bytes] = field(default_factory=list)


def entries_of(parcel: Parcel, number: int) -> list[Raw]:
    """What the documents of a parcel hold: one, or a part each. ``parcel`` tells the parts of one from those of another."""
    parts = pack(parcel, number)
    if len(parts) == 1:
        return [{"body": parts[0], "part": 1, "parts": 1, "parcel": ""}]
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    name = digest.hexdigest()
    return [{"body": part, "part": n, "parts": len(parts), "parcel": name} for n, part in enumerate(parts, 1)]


def step(lane: Lane, document: Raw) -> list[bytes]:
    """Go on by one entry; the parts of a parcel that is whole with it. What an attempt that was given up left is passed by."""
    lane.seq = document["seq"]
    if document["part"] == 1:
        lane.parcel, lane.parts = document["parcel"], []
    elif lane.parcel != document["parcel"] or document["part"] != len(lane.parts) + 1:
        lane.parcel, lane.parts = "", []
        return []
    lane.parts.append(document["body"])
    if document["part"] < document["parts"]:
        return []
    parts, lane.parcel, lane.parts = lane.parts, "", []
    return parts
