"""Removal from the old end, and what inboxes still point to.

The floor is durable before the first entry goes, so that a timeline's head survives.
"""

from __future__ import annotations

from storage.interface import Pointer
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection
from storage.mongo.lease import Lease
from storage.mongo.reads import with_ids
from storage.mongo.state import State, batches


async def prune(state: State, lease: Lease, kind: str, name: str, before_seq: int, limit: int) -> int:
    """Remove up to ``limit`` entries with seq < ``before_seq`` of a topic or a user (``kind``); how many were removed."""
    c = state.collections
    is_topic = kind == "topic"
    entries, registry = (c.store, c.conversations) if is_topic else (c.sync, c.users)
    under_way = state.pruned_topics if is_topic else state.pruned_inboxes
    await lease.confirm()
    head = (await state.topic_head(name)).seq if is_topic else await state.inbox_head(name)
    first = await state.first_entry(entries, kind, name, under_way.get(name, 0))
    if first is None:
        return 0
    through = min(before_seq - 1, first["seq"] + limit - 1, head)
    if through < first["seq"]:
        return 0
    await _save(state, lease, registry, name, entries, kind, through)
    # Until the entries are gone, nobody may read the ones that are left; after a crash, `open` finishes the removal.
    under_way[name] = through
    mark = f"prune\0{kind}\0{name}"
    with storage_errors():
        await c.meta.update_one({"_id": mark}, {"$set": {"kind": kind, "name": name, "through": through}}, upsert=True)
        await entries.delete_many({kind: {"$eq": name}, "seq": {"$lte": through}})
        await c.meta.delete_one({"_id": mark})
    under_way.pop(name, None)
    return int(through - first["seq"] + 1)


async def _save(
    state: State, lease: Lease, registry: Collection, name: str, entries: Collection, kind: str, through: int
) -> None:
    """Make durable what would be forgotten with the entries: the head, the time, the last id, and that recovery is not due."""
    if not state.shared:
        await lease.renew()
    with storage_errors():
        last = await entries.find_one({kind: {"$eq": name}, "seq": through}, {"time": 1})
        time = last["time"] if last else 0
        await registry.update_one({"_id": name}, {"$max": {"floor": through, "time": time}}, upsert=True)
        await state.collections.meta.update_one({"_id": "heads"}, {"$max": {"last_id": state.last_id}}, upsert=True)


async def read_pointers(state: State, user: str, after: int, limit: int) -> list[Pointer]:
    """See `storage.interface.Pruner`."""
    after = max(after, state.pruned_inboxes.get(user, 0))
    places: dict[int, tuple[str, int]] = {}
    with storage_errors():
        cursor = state.collections.sync.find({"user": {"$eq": user}, "seq": {"$gt": after}}, {"seq": 1, "mid": 1})
        entries = await cursor.sort("seq", 1).limit(limit).to_list(None)
        if (before := state.inbox_before(user)) is not None:
            entries = [entry for entry in entries if entry["seq"] <= before]
        for some in batches({entry["mid"] for entry in entries}, 1000):
            async for document in state.collections.store.find(with_ids(some), {"mid": 1, "topic": 1, "seq": 1}):
                if document["seq"] > state.pruned_topics.get(document["topic"], 0):
                    places[document["mid"]] = (document["topic"], document["seq"])
    return [Pointer(entry["seq"], *places.get(entry["mid"], ("", 0))) for entry in entries]
