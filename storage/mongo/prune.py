"""Removal from the old end, and what inboxes still point to.

The floor is durable before the first entry goes, so that a timeline's head survives.
"""

from __future__ import annotations

from storage.cluster import number_of
from storage.interface import Pointer
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw, last_id_key
from storage.mongo.reads import with_ids
from storage.mongo.state import State, batches


async def prune(state: State, kind: str, name: str, before_seq: int, limit: int, spared: int, now: int) -> int:
    """Remove up to ``limit`` entries with seq < ``before_seq`` of a topic or a user (``kind``); how many were removed.

    Entries of the last ``spared`` ms before ``now`` stay: a writer that is slow may be about to be acknowledged for one. A time
    that is as far ahead tells no age, and spares nothing: a clock was wrong.
    """
    c = state.collections
    is_topic = kind == "topic"
    entries, registry = (c.store, c.conversations) if is_topic else (c.sync, c.users)
    under_way = state.pruned_topics if is_topic else state.pruned_inboxes
    floor, head = await (state.topic_ends(name) if is_topic else state.inbox_ends(name))
    first = await state.first_entry(entries, kind, name, max(floor, under_way.get(name, 0)))
    if first is None:
        return 0
    through = min(before_seq - 1, first["seq"] + limit - 1, head.seq)
    now = now or await state.now()
    last: Raw | None = None
    for times in ({"$lt": now - spared}, {"$gt": now + spared}):
        query = {kind: {"$eq": name}, "seq": {"$gte": first["seq"], "$lte": through}, "time": times}
        with storage_errors():
            last = last or await entries.find_one(query, {"seq": 1, "time": 1}, sort=[("seq", -1)])
    if last is None:
        return 0
    through = last["seq"]
    if is_topic:
        await _save_last_ids(state, name, through)
    mark = f"prune\0{kind}\0{name}"
    with storage_errors():
        await registry.update_one({"_id": name}, {"$max": {"floor": through, "time": last["time"]}}, upsert=True)
        await c.meta.update_one({"_id": mark}, {"$set": {"kind": kind, "name": name, "through": through}}, upsert=True)
        # Until the entries are gone, nobody may read the ones that are left; whoever finishes a crash finishes the removal.
        under_way[name] = through
        await entries.delete_many({kind: {"$eq": name}, "seq": {"$lte": through}})
        await c.meta.delete_one({"_id": mark})
    under_way.pop(name, None)
    return int(through - first["seq"] + 1)


async def _save_last_ids(state: State, topic: str, through: int) -> None:
    """Make durable what would be forgotten with the entries: the last ids of their nodes."""
    highest: dict[str, int] = {}
    with storage_errors():
        query = {"topic": {"$eq": topic}, "seq": {"$lte": through}}
        async for document in state.collections.store.find(query, {"mid": 1}):
            key = last_id_key(number_of(document["mid"]))
            highest[key] = max(document["mid"], highest.get(key, 0))
        for key, last_id in highest.items():
            await state.collections.meta.update_one({"_id": key}, {"$max": {"last_id": last_id}}, upsert=True)


async def read_pointers(state: State, user: str, after: int, limit: int) -> list[Pointer]:
    """See `storage.interface.Pruner`."""
    after = max(after, state.pruned_inboxes.get(user, 0))
    places: dict[int, tuple[str, int]] = {}
    with storage_errors():
        cursor = state.collections.sync.find({"user": {"$eq": user}, "seq": {"$gt": after}}, {"seq": 1, "mid": 1})
        entries = await cursor.sort("seq", 1).limit(limit).to_list(None)
        for some in batches({entry["mid"] for entry in entries}, 1000):
            async for document in state.collections.store.find(with_ids(some), {"mid": 1, "topic": 1, "seq": 1}):
                if document["seq"] > state.pruned_topics.get(document["topic"], 0):
                    places[document["mid"]] = (document["topic"], document["seq"])
    return [Pointer(entry["seq"], *places.get(entry["mid"], ("", 0))) for entry in entries]
