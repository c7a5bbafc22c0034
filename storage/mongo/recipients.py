"""Who has one message: the store says to whom it went, and which sequence each inbox had not reached then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from storage.interface import NEAR
from storage.mongo.codec import places_of
from storage.mongo.connection import storage_errors
from storage.mongo.load import inbox_since
from storage.mongo.reads import inbox_bounds
from storage.mongo.state import State, batches
from storage.records import Message

_AT_ONCE = 16


async def participants(state: State, topic: str, after: str, limit: int) -> list[str]:
    """See `storage.interface.Recipients`."""
    query = {"topic": {"$eq": topic}, "user": {"$gt": after}}
    with storage_errors():
        found = await state.collections.members.find(query, {"user": 1}).sort("user", 1).limit(limit).to_list(None)
    return [document["user"] for document in found]


async def entries_of(state: State, message: Message, users: Sequence[str]) -> list[int]:
    """See `storage.interface.Recipients`. Data that was imported does not say to whom a message went: there by its time."""
    with storage_errors():
        document = await state.collections.store.find_one({"mid": {"$eq": message.id}}, {"recipients": 1, "places": 1})
    recipients = document.get("recipients") if document else None
    places = dict(zip(recipients, places_of(document), strict=True)) if document and recipients else None

    async def entry(user: str) -> int:
        if places is None:
            return await _by_time(state, user, message)
        return await _behind(state, user, message.id, places[user]) if user in places else 0

    seqs: list[int] = []
    for some in batches(users, _AT_ONCE):
        seqs += await asyncio.gather(*map(entry, some))
    return seqs


async def _behind(state: State, user: str, message_id: int, place: int) -> int:
    """The entry at a place or behind it: right there, but where others wrote much to the inbox at that moment."""
    return await _find(state, user, message_id, {"$gte": place, "$lt": place + NEAR}) or await _find(
        state, user, message_id, {"$gte": place + NEAR}
    )


async def _by_time(state: State, user: str, message: Message) -> int:
    first, head = await inbox_bounds(state, user)
    place = await inbox_since(state, user, first, head, message.time)
    return await _find(state, user, message.id, {"$gte": place - NEAR, "$lt": place + NEAR})


async def _find(state: State, user: str, message_id: int, seqs: dict[str, int]) -> int:
    lowest = state.pruned_inboxes.get(user, 0)
    query = {"user": {"$eq": user}, "seq": seqs, "mid": {"$eq": message_id}}
    with storage_errors():
        found = await state.collections.sync.find(query, {"seq": 1, "target": 1}).sort("seq", 1).to_list(None)
    return next((int(entry["seq"]) for entry in found if not entry.get("target") and entry["seq"] > lowest), 0)
