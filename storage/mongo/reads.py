"""Reading timelines, devices and retained messages. Nobody reads past what is committed, nor below what is being removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from storage import rules
from storage.mongo.codec import device_id, kept_device, message, subscription
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.state import State, batches, first_at
from storage.names import prefix_end
from storage.records import Device, DeviceKey, InboxEntry, Message

_PAGE = 256
_AT_ONCE = 16


def _range(field: str, name: str, after: int, before: int) -> Raw:
    """Entries with after < seq < before (0: no bound)."""
    bounds = {"$gt": after} if not before else {"$gt": after, "$lt": before}
    return {field: {"$eq": name}, "seq": bounds}


async def read_inbox(state: State, user: str, after: int, limit: int, max_bytes: int) -> list[InboxEntry]:
    """See `storage.interface.InboxReader`."""
    after = max(after, state.pruned_inboxes.get(user, 0))
    if limit < 1:
        return []
    with storage_errors():
        cursor = state.collections.sync.find(_range("user", user, after, 0)).sort("seq", 1).limit(limit)
        entries = await cursor.to_list(None)
    before = state.inbox_before(user)
    committed = (entry for entry in entries if before is None or entry["seq"] <= before)
    page = rules.within(committed, max_bytes, lambda entry: int(entry["size"]))
    messages = await _messages(state, {entry["mid"] for entry in page})
    return [InboxEntry(e["seq"], messages.get(e["mid"]), e.get("target", "")) for e in page]


async def _messages(state: State, ids: set[int]) -> dict[int, Message]:
    """By id, from the store, or from the retained messages where retention has removed them."""
    found: dict[int, Message] = {}
    for collection in (state.collections.store, state.collections.retained):
        if missing := [id for id in ids if id not in found]:
            with storage_errors():
                async for document in collection.find(with_ids(missing)):
                    if not document.get("gone"):
                        found[document["mid"]] = message(document)
    return found


def with_ids(some: list[int]) -> Raw:
    """The messages with these ids. No range beside the list: MongoDB's plan is the same, and other servers then read the range
    instead. One id is looked up by name, as some look up no list in an index."""
    return {"mid": {"$eq": some[0]}} if len(some) == 1 else {"mid": {"$in": some}}


async def conversation_bounds(state: State, topic: str) -> tuple[int, int]:
    """See `storage.interface.ConversationReader`."""
    last = (await state.topic_head(topic)).seq
    first = await state.first_entry(state.collections.store, "topic", topic, state.pruned_topics.get(topic, 0))
    return (min(first["seq"], last + 1) if first else last + 1, last)


async def inbox_bounds(state: State, user: str) -> tuple[int, int]:
    """See `storage.interface.InboxReader`."""
    last = await state.inbox_head(user)
    first = await state.first_entry(state.collections.sync, "user", user, state.pruned_inboxes.get(user, 0))
    return (min(first["seq"], last + 1) if first else last + 1, last)


async def read_conversation(
    state: State, topic: str, after: int, before: int, limit: int, newest_first: bool, max_bytes: int
) -> list[Message]:
    """See `storage.interface.ConversationReader`."""
    after = max(after, state.pruned_topics.get(topic, 0))
    query = _range("topic", topic, after, _committed(state, topic, before))
    if not newest_first:
        page, _ = await _page(state, query, ("seq", 1), limit, max_bytes)
        return page
    page, hidden = await _page(state, query, ("seq", -1), limit, max_bytes)
    if hidden:  # it came first: the page begins below it
        page, _ = await _page(state, _range("topic", topic, after, hidden), ("seq", -1), limit, max_bytes)
    return page


def _committed(state: State, topic: str, before: int) -> int:
    head = state.topic_before(topic)
    return before if head is None else min(before or head.seq + 1, head.seq + 1)


async def _page(state: State, query: Raw, order: tuple[str, int], limit: int, max_bytes: int) -> tuple[list[Message], int]:
    """Messages of the store, and the last sequence that was hidden: what is not committed yet ends a page that rises, and is
    passed over in one that falls."""
    page: list[Message] = []
    size = hidden = 0
    if limit < 1:
        return page, hidden
    with storage_errors():
        async with state.collections.store.find(query).sort([order]).limit(limit).batch_size(min(limit, _PAGE)) as cursor:
            async for document in cursor:
                if state.is_hidden(document):
                    hidden = document["seq"]
                    if order[1] > 0:
                        break
                    continue
                page.append(message(document))
                size += len(document["payload"])
                if size >= max_bytes:
                    break
    return page, hidden


async def read_tail(state: State, after_id: int, limit: int, max_bytes: int) -> list[Message]:
    """See `storage.interface.Tail`."""
    page, _ = await _page(state, {"mid": {"$gt": after_id}}, ("mid", 1), limit, max_bytes)
    return page


async def sequence_at(state: State, topic: str, time: int) -> int:
    """See `storage.interface.ConversationReader`."""
    first, last = await conversation_bounds(state, topic)

    async def times(seqs: list[int]) -> dict[int, int]:
        with storage_errors():
            query = {"topic": {"$eq": topic}, "seq": {"$in": seqs}}
            found = await state.collections.store.find(query, {"seq": 1, "time": 1}).to_list(None)
        return {document["seq"]: document["time"] for document in found}

    return await first_at(last, first, times, time)


async def read_message(state: State, message_id: int) -> Message | None:
    """See `storage.interface.ConversationReader`."""
    with storage_errors():
        document = await state.collections.store.find_one({"mid": {"$eq": message_id}})
    return message(document) if document and not state.is_hidden(document) else None


async def last_id(state: State) -> int:
    """The highest id that was ever committed, from the database."""
    c = state.collections
    with storage_errors():
        newest = await c.store.find_one({}, {"mid": 1}, sort=[("mid", -1)])
        heads = await c.meta.find_one({"_id": "heads"})
        lease = await c.lease.find_one({"_id": "serving"})
    known = (newest and newest["mid"], heads and heads.get("last_id"), lease and lease.get("done"))
    return max(id or 0 for id in known)


# --- devices and retained messages ---------------------------------------------------------------------------------


async def device(state: State, key: DeviceKey) -> Device | None:
    """See `storage.interface.State`."""
    with storage_errors():
        document = await state.collections.devices.find_one({"_id": device_id(key)})
    return (await with_subscriptions(state, [document]))[0] if document else None


async def devices(state: State) -> AsyncIterator[Device]:
    """See `storage.interface.State`."""
    async for page in pages(state.collections.devices, {}):
        for one in await with_subscriptions(state, page):
            yield one


async def with_subscriptions(state: State, documents: list[Raw]) -> list[Device]:
    """The devices of documents with rising keys. A subscription's key begins with its device's, so theirs are neighbours."""
    kept = {one.device.key: one for one in map(kept_device, documents)}
    between = {"$gt": documents[0]["_id"] + "\0", "$lt": documents[-1]["_id"] + "\1"}
    with storage_errors():
        async for document in state.collections.subscriptions.find({"_id": between}):
            owner = kept.get(DeviceKey(document["user"], document["client"]))
            if owner is not None and document["generation"] == owner.generation:
                owner.device.subscriptions[document["filter"]] = subscription(document)
    return [one.device for one in kept.values()]


async def retained_range(state: State, prefix: str, after: str, limit: int, max_bytes: int) -> list[Message]:
    """See `storage.interface.RetainedReader`."""
    bounds: Raw = {"$gt": after} if after >= prefix else {"$gte": prefix}
    if end := prefix_end(prefix):
        bounds["$lt"] = end
    page: list[Message] = []
    size = 0
    with storage_errors():
        query = {"_id": bounds, "gone": {"$ne": 1}}
        async for document in state.collections.retained.find(query).sort("_id", 1).limit(limit).batch_size(_PAGE):
            if size >= max_bytes:
                break
            page.append(message(document))
            size += len(page[-1].payload)
    return page


async def retained_count(state: State) -> int:
    """See `storage.interface.RetainedReader`."""
    with storage_errors():
        return await state.collections.retained.count_documents({"gone": {"$ne": 1}})


async def retained_expired(state: State, now: int, limit: int) -> list[tuple[str, int]]:
    """See `storage.interface.RetainedReader`."""
    query = {"expires": {"$gt": 0, "$lte": now}, "gone": {"$ne": 1}}
    with storage_errors():
        cursor = state.collections.retained.find(query, {"mid": 1}).sort([("expires", 1), ("mid", 1)]).limit(limit)
        return [(document["_id"], document["mid"]) for document in await cursor.to_list(None)]


async def pages(collection: Collection, query: Raw, fields: Raw | None = None) -> AsyncIterator[list[Raw]]:
    """Documents by rising ``_id``, or ``fields`` of them, each page a query of its own."""
    last: Any = None
    while True:
        with storage_errors():
            page_query = query if last is None else {"$and": [query, {"_id": {"$gt": last}}]}
            page = await collection.find(page_query, fields).sort("_id", 1).limit(_PAGE).to_list(None)
        if page:
            yield page
        if len(page) < _PAGE:
            return
        last = page[-1]["_id"]


# --- listings ------------------------------------------------------------------------------------------------------


async def conversations(state: State, prefix: str) -> AsyncIterator[tuple[str, int, int]]:
    """See `storage.interface.Catalogue`."""
    query = {"_id": {"$gte": prefix, "$lt": prefix + "\U0010ffff\U0010ffff"}} if prefix else {}
    async for page in pages(state.collections.conversations, query):
        names = [document["_id"] for document in page if document["_id"].startswith(prefix)]
        for some in batches(names, _AT_ONCE):
            for name, bounds in zip(some, await asyncio.gather(*(conversation_bounds(state, n) for n in some)), strict=True):
                if bounds != (1, 0):
                    yield name, *bounds


async def inboxes(state: State) -> AsyncIterator[tuple[str, int, int]]:
    """See `storage.interface.Catalogue`."""
    async for page in pages(state.collections.users, {}):
        for some in batches([document["_id"] for document in page], _AT_ONCE):
            for name, bounds in zip(some, await asyncio.gather(*(inbox_bounds(state, n) for n in some)), strict=True):
                if bounds != (1, 0):
                    yield name, *bounds
