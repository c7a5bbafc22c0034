"""Reading timelines, devices and retained messages.

An entry is there for all once a majority has it; the one before it was there first. Nobody reads below what is being removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from storage import rules
from storage.cluster import GONE
from storage.interface import LATE, TailPage, page_of_ids
from storage.mongo import late
from storage.mongo.codec import device_id, kept_device, message, subscription
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw, last_id_key
from storage.mongo.state import State, batches, first_at
from storage.names import prefix_end
from storage.records import DataEpoch, Device, DeviceKey, InboxEntry, Message

KEPT: Raw = {"gone": {"$ne": 1}}
"""What was not deleted, or cleared."""
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
    while True:
        with storage_errors():
            cursor = state.collections.sync.find(_range("user", user, after, 0)).sort("seq", 1).limit(limit)
            entries = await cursor.to_list(None)
        if not _has_gap([entry["seq"] for entry in entries]):
            break
        floor, _ = await state.inbox_ends(user)
        if floor <= after:
            break
        after = floor
    page = rules.within(entries, max_bytes, lambda entry: int(entry["size"]))
    messages = await _messages(state, {entry["mid"] for entry in page})
    return [InboxEntry(e["seq"], messages.get(e["mid"]), e.get("target", "")) for e in page]


def _has_gap(seqs: Sequence[int]) -> bool:
    """Whether another node is removing some of a page's entries, which go in no order: it is read anew, above the floor."""
    return bool(seqs) and abs(seqs[-1] - seqs[0]) != len(seqs) - 1


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
    floor, last = await state.topic_ends(topic)
    floor = max(floor, state.pruned_topics.get(topic, 0))
    first = await state.first_entry(state.collections.store, "topic", topic, floor)
    return (min(first["seq"], last.seq + 1) if first else last.seq + 1, last.seq)


async def inbox_bounds(state: State, user: str) -> tuple[int, int]:
    """See `storage.interface.InboxReader`."""
    floor, last = await state.inbox_ends(user)
    first = await state.first_entry(state.collections.sync, "user", user, max(floor, state.pruned_inboxes.get(user, 0)))
    return (min(first["seq"], last.seq + 1) if first else last.seq + 1, last.seq)


async def read_conversation(
    state: State, topic: str, after: int, before: int, limit: int, newest_first: bool, max_bytes: int
) -> list[Message]:
    """See `storage.interface.ConversationReader`."""
    after = max(after, state.pruned_topics.get(topic, 0))
    order = ("seq", -1 if newest_first else 1)
    while True:
        page = await _page(state.collections.store, _range("topic", topic, after, before), order, limit, max_bytes)
        if not _has_gap([message.seq for message in page]):
            return page
        floor, _ = await state.topic_ends(topic)
        if floor <= after:
            return page
        after = floor


async def _page(collection: Collection, query: Raw, order: tuple[str, int], limit: int, max_bytes: int) -> list[Message]:
    """Messages of the store, or retained ones."""
    page: list[Message] = []
    size = 0
    if limit < 1:
        return page
    with storage_errors():
        async with collection.find(query).sort([order]).limit(limit).batch_size(min(limit, _PAGE)) as cursor:
            async for document in cursor:
                page.append(message(document))
                size += len(document["payload"])
                if size >= max_bytes:
                    break
    return page


async def read_tail(state: State, after_id: int, limit: int, max_bytes: int) -> list[Message]:
    """See `storage.interface.Tail`."""
    return await _page(state.collections.store, {"mid": {"$gt": after_id}}, ("mid", 1), limit, max_bytes)


async def read_tail_of(state: State, number: int, after: int, through: int, limit: int, max_bytes: int) -> TailPage:
    """See `storage.interface.Tails`."""
    if number == LATE:
        return await late.read(state, after, through, limit, max_bytes)
    query = {"writer": {"$eq": number}, "mid": {"$gt": after, "$lte": through}}
    return page_of_ids(await _page(state.collections.store, query, ("mid", 1), limit, max_bytes), through)


async def tails(state: State) -> dict[int, int]:
    """See `storage.interface.Tails`. Of a number that went from node to node, the last one's word counts. One that is gone has
    said all that it will: what it had not said yet was finished since, or is stored for it by who was sent it again."""
    with storage_errors():
        nodes = await state.collections.nodes.find({}, {"number": 1, "token": 1, "state": 1, "done": 1}).to_list(None)
    nodes.sort(key=lambda node: int(node["token"]))
    ends = {node["number"]: int(node["done"]) for node in nodes}
    states = {node["number"]: node["state"] for node in nodes}
    for some in batches((number for number, of_last in states.items() if of_last == GONE), _AT_ONCE):
        stored = await asyncio.gather(*(_last_id_of(state, number) for number in some))
        ends.update({number: max(id, ends[number]) for number, id in zip(some, stored, strict=True)})
    if state.token:
        ends[state.number or 0] = state.last_id
    if end := await late.end(state):
        ends[LATE] = end
    return ends or {0: await last_id(state)}


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
    return message(document) if document else None


async def read_messages(state: State, ids: Sequence[int]) -> list[Message]:
    """See `storage.interface.ConversationReader`."""
    with storage_errors():
        found = await state.collections.store.find({"mid": {"$in": list(ids)}}).to_list(None)
    by_id = {document["mid"]: message(document) for document in found}
    return [by_id[message_id] for message_id in ids if message_id in by_id]


async def data_epoch(state: State) -> DataEpoch:
    """See `storage.interface.Epochs`."""
    with storage_errors():
        found = await state.collections.meta.find_one({"_id": "epoch"})
    return DataEpoch(found["epoch"], found["restored"]) if found else DataEpoch("")


async def last_id(state: State) -> int:
    """The highest id that was ever committed with this node's number, from the database; of any, where it has none."""
    return await _last_id_of(state, state.number)


async def _last_id_of(state: State, number: int | None) -> int:
    """The same of a node's number; None: of all."""
    c = state.collections
    mine = {} if number is None else {"writer": {"$eq": number}}
    gone = {"last_id": {"$gt": 0}} if number is None else {"_id": {"$eq": last_id_key(number)}}
    with storage_errors():
        newest = await c.store.find_one(mine, {"mid": 1}, sort=[("mid", -1)])
        heads = await c.meta.find(gone).to_list(None)
    return max([int(newest["mid"]) if newest else 0, *(int(head["last_id"]) for head in heads)])


# --- devices and retained messages ---------------------------------------------------------------------------------


async def device(state: State, key: DeviceKey) -> Device | None:
    """See `storage.interface.State`."""
    with storage_errors():
        document = await state.collections.devices.find_one({"_id": device_id(key)})
    return (await with_subscriptions(state, [document]))[0] if document and not document.get("gone") else None


async def devices(state: State) -> AsyncIterator[Device]:
    """See `storage.interface.State`."""
    async for page in pages(state.collections.devices, KEPT):
        for one in await with_subscriptions(state, page):
            yield one


async def with_subscriptions(state: State, documents: list[Raw]) -> list[Device]:
    """The devices of documents with rising keys. A subscription's key begins with its device's, so theirs are neighbours."""
    kept = {one.device.key: one for one in map(kept_device, documents)}
    between = {"$gt": documents[0]["_id"] + "\0", "$lt": documents[-1]["_id"] + "\1"}
    with storage_errors():
        async for document in state.collections.subscriptions.find({"_id": between}):
            owner = kept.get(DeviceKey(document["user"], document["client"]))
            if owner is not None and document["generation"] == owner.generation and not document.get("gone"):
                owner.device.subscriptions[document["filter"]] = subscription(document)
    return [one.device for one in kept.values()]


async def retained_range(state: State, prefix: str, after: str, limit: int, max_bytes: int) -> list[Message]:
    """See `storage.interface.RetainedReader`."""
    return await _page(state.collections.retained, {"_id": names_from(prefix, after), **KEPT}, ("_id", 1), limit, max_bytes)


def names_from(prefix: str, after: str = "") -> Raw:
    """The names that begin with a prefix and come after one."""
    end = prefix_end(prefix)
    return {"$gte": prefix} | ({"$lt": end} if end else {}) | ({"$gt": after} if after >= prefix else {})


async def retained_count(state: State) -> int:
    """See `storage.interface.RetainedReader`."""
    with storage_errors():
        return await state.collections.retained.count_documents(KEPT)


async def retained_expired(state: State, now: int, limit: int) -> list[tuple[str, int]]:
    """See `storage.interface.RetainedReader`."""
    query = {"expires": {"$gt": 0, "$lte": now}, **KEPT}
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


async def conversations(state: State, prefix: str, after: str) -> AsyncIterator[tuple[str, int, int]]:
    """See `storage.interface.Catalogue`."""
    async for page in pages(state.collections.conversations, {"_id": names_from(prefix, after)}):
        for some in batches([document["_id"] for document in page], _AT_ONCE):
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
