"""What a node says before it does what nobody could finish for it: see `storage.mongo.documents.Announced`.

A group that tells the routes something last, or stores messages under another node's ids, announces it before its first write
that needs it, in the place of what it announced before, which is complete by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.cluster import ADD, ENDED, HELD, REMOVE, Change
from storage.mongo.codec import change_documents, device_id, subscription_id
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.state import State
from storage.records import DeviceKey


class Adopted(NamedTuple):
    """A message that a group stores under another node's id, which tells nothing about its place in the group. ``before``: the
    next message with an id of the group's own node, 0 for none."""

    mid: int
    before: int


async def announce(state: State, changes: Sequence[Change], adopted: Sequence[Adopted]) -> None:
    """Say what this node's group is about to tell the routes, and which messages of other nodes it stores, in its order."""
    first, *more = change_documents(changes)
    with storage_errors():
        # What the further parts say counts once the first one names them; before that they are told by none, or hold not yet.
        for number, part in enumerate(more, 1):
            await _put(state, f"{state.token} {number}", {"changes": part})
        mids, before = [one.mid for one in adopted], [one.before for one in adopted]
        await _put(state, str(state.token), {"changes": first, "adopted": mids, "before": before, "parts": len(more)})


async def _put(state: State, name: str, fields: Raw) -> None:
    await state.collections.announced.update_one({"_id": name}, {"$set": fields}, upsert=True)


async def announced(state: State, token: int) -> tuple[list[Change], list[Adopted]]:
    """What a node announced last."""
    with storage_errors():
        first = await state.collections.announced.find_one({"_id": str(token)})
        if first is None:
            return [], []
        names = [f"{token} {number}" for number in range(1, first.get("parts", 0) + 1)]
        more = await state.collections.announced.find({"_id": {"$in": names}}).to_list(None) if names else []
    parts = [first, *sorted(more, key=lambda part: names.index(part["_id"]))]
    mids = first["adopted"]
    before = first.get("before") or [0] * len(mids)  # an earlier version says nothing of their places
    return [Change(*fields) for part in parts for fields in part["changes"]], list(map(Adopted, mids, before))


async def forget_announced(state: State, token: int) -> None:
    """Remove what a node announced, which is gone and has nothing left to finish."""
    with storage_errors():
        await state.collections.announced.delete_many({"_id": {"$gte": str(token), "$lt": f"{token}!"}})


async def true_ones(state: State, changes: Sequence[Change]) -> list[Change]:
    """Those of a group's last changes that hold by now: it may have ended before it came to what they tell."""
    return [change for change in changes if await _holds(state, change)]


async def _holds(state: State, change: Change) -> bool:
    key = DeviceKey(change.user, change.client_id)
    c = state.collections
    with storage_errors():
        device: Raw | None = await c.devices.find_one({"_id": device_id(key)}) if change.kind in _OF_DEVICES else None
        if device is None or device.get("gone"):
            return True
        if change.kind == ENDED:
            return False
        if change.kind == HELD:
            return bool(device["epoch"] == change.epoch and not device["node"])
        found = await c.subscriptions.find_one({"_id": subscription_id(key, change.filter)})
    had = found is not None and found["generation"] == device["generation"] and not found.get("gone")
    return had == (change.kind == ADD)


_OF_DEVICES = {ADD, REMOVE, HELD, ENDED}
