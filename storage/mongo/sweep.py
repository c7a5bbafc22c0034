"""Removing marks of what is gone, and keys that hold no more, once nothing can come any more that they keep out."""

from __future__ import annotations

import time

from storage.mongo import late
from storage.mongo.connection import storage_errors
from storage.mongo.state import State

KEPT = 24 * 3600 * 1000
"""Milliseconds for which a mark is kept: a node may be frozen for that long, and then send what it was about to."""
_EVERY = 600.0
_AT_ONCE = 1000


async def sweep(state: State) -> None:
    """Remove some of the old marks, where that is due. Where there are more of them, it is due again at once."""
    if time.monotonic() < state.sweep_at:
        return
    state.sweep_at = time.monotonic() + _EVERY
    before = await state.now() - KEPT
    old = {"$gt": 0, "$lt": before}
    c = state.collections
    for collection, mark in (
        (c.devices, {"gone_at": old, "gone": 1}),
        (c.subscriptions, {"gone_at": old, "gone": 1}),
        (c.rows, {"gone_at": old, "gone": 1}),
        (c.retained, {"gone_at": old, "gone": 1}),
        (c.claims, {"claimed_at": old, "released": 1}),
        (c.idempotency, {"until": old}),
    ):
        with storage_errors():
            found = await collection.find(mark, {"_id": 1}).limit(_AT_ONCE).to_list(None)
            if found:
                await collection.delete_many({"_id": {"$in": [document["_id"] for document in found]}, **mark})
        if len(found) == _AT_ONCE:
            state.sweep_at = 0.0
    await late.sweep(state, before)
