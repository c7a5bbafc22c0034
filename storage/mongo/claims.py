"""What must happen once although a publisher sends it again: inbound QoS 2, and appends with an idempotency key.

A claim names the one message that stands for a packet id, or a key, and is inserted before that message is stored. Whoever
finds it taken by the same content, not finished, has been sent a message that another node began with: it takes over that
message's id and finishes it, and acknowledges then. `store.mid` is unique, so both may try. For a packet id, who has the device
is looked up behind the claim: a node that has lost the device stops before the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from pymongo import UpdateOne

from storage.cluster import UP
from storage.errors import StorageUnavailable, Unfinished
from storage.mongo.codec import Kept, claim_id, once_document, once_key
from storage.mongo.connection import storage_errors
from storage.mongo.documents import TOKEN_SHIFT, Collection, Raw
from storage.mongo.load import by_id, load_devices
from storage.mongo.node import node_key
from storage.mongo.state import State
from storage.mongo.view import View
from storage.mongo.writes import bulk_write, insert_some
from storage.records import Append, DeviceKey
from storage.rules import Once, asked_at, content_of

_ATTEMPTS = 20


def needs_claims(appends: Sequence[Append]) -> bool:
    """Whether a group has anything that is to happen once."""
    return any(op.received is not None or op.idempotency_key for op in appends)


async def claim(state: State, view: View, appends: Sequence[Append], adopted: list[int]) -> None:
    """Claim what a group's messages need.

    The ids of those that stand for a message of another node, and have its id by now, are added to ``adopted``. For one that is
    taken only as a repeat (`Append.refusal`) nothing is claimed; where another node has begun with it and not finished, nobody
    knows whether it is one (`Unfinished`).
    """
    packets: dict[str, Append] = {}
    keys: dict[str, Append] = {}
    repeats: list[Append] = []
    for op in appends:
        if op.error is None and op.message.id not in view.stored:
            if op.refusal is not None:
                repeats.append(op)
                continue
            if op.received is not None and op.store and _held(view, op.received[0]):
                packets[claim_id(*op.received)] = op
            if op.idempotency_key:
                keys.setdefault(once_key(op.message.user, op.idempotency_key), op)
    if packets:
        await _claim_packets(state, view, packets, adopted)
    if keys:
        await _claim_keys(state, view, keys, adopted)
    if repeats:
        await _look_up(state, view, repeats, {op.message.id for op in appends})


async def _look_up(state: State, view: View, ops: Sequence[Append], group: AbstractSet[int]) -> None:
    """See what the keys of messages that may only be repeats were used for. Of which message of their own ``group`` they are
    repeats, the plan says."""
    names = [once_key(op.message.user, op.idempotency_key) for op in ops]
    used = {document["_id"]: document for document in await by_id(state.collections.idempotency, list(set(names)))}
    for name, op in zip(names, ops, strict=True):
        if (document := used.get(name)) is None or document["mid"] in group:
            continue
        if document.get("done", 1):
            view.once[name] = document
        elif document["digest"] == content_of(op) and document["until"] > asked_at(op) and await _may_come(state, document):
            op.error = Unfinished(f"another node is about to store what was sent as {op.idempotency_key!r}: send it again")


async def _may_come(state: State, claim: Raw) -> bool:
    """Whether a message that a node has begun with may be stored yet: by that node, or, where it is dead, with the rest of what
    it has stored, by who finishes its work."""
    with storage_errors():
        node = await state.collections.nodes.find_one({"_id": node_key(claim["v"] >> TOKEN_SHIFT)}, {"state": 1})
        if node is not None and node["state"] == UP:
            return True
        return await state.collections.store.find_one({"mid": claim["mid"]}, {"mid": 1}) is not None


async def _claim_packets(state: State, view: View, ops: dict[str, Append], adopted: list[int]) -> None:
    """Most packet ids were used before, and released. Those and new ones take one write, and one read of what came of it."""
    pending = dict(ops)
    for attempt in range(_ATTEMPTS):
        mine = {name: _packet(view, op) for name, op in pending.items()}
        writes: list[UpdateOne] = []
        for name, document in mine.items():
            writes.append(UpdateOne({"_id": name, "released": 1}, {"$set": document}))
            writes.append(UpdateOne({"_id": name}, {"$setOnInsert": document}, upsert=True))
        await bulk_write(state.collections.claims, writes)
        keys = {op.received[0] for op in pending.values() if op.received is not None}
        found, _ = await asyncio.gather(
            by_id(state.collections.claims, list(pending)), load_devices(state, view, keys, fresh=True)
        )
        claims = {document["_id"]: document for document in found}
        for name, op in list(pending.items()):
            claim = claims.get(name)  # None: one that no majority has yet is in the way
            if claim is None:
                continue
            if claim["mid"] != op.message.id:
                if all(claim[field] == mine[name][field] for field in ("digest", "generation", "released")):
                    op.message.id = claim["mid"]
                    adopted.append(op.message.id)
                elif not await _replace(state.collections.claims, claim, mine[name]):
                    continue
            del pending[name]
        if not pending:
            return
        await state.pause(attempt)
    raise StorageUnavailable("mongodb: a claim changes hands again and again")


def _device(view: View, key: DeviceKey) -> Kept | None:
    return view.drafted.get(key) or view.devices.get(key)


def _held(view: View, key: DeviceKey) -> bool:
    """Whether this node has a device's connection, before the group or in it."""
    known = (view.drafted.get(key), view.devices.get(key))
    return any(kept is not None and kept.device.node == view.node for kept in known)


def _packet(view: View, op: Append) -> Raw:
    assert op.received is not None
    kept = _device(view, op.received[0])
    assert kept is not None
    return {
        "mid": op.message.id,
        "digest": content_of(op),
        "generation": kept.generation,
        "epoch": kept.device.epoch,
        "released": 0,
        "claimed_at": view.now,
    }


async def _claim_keys(state: State, view: View, ops: dict[str, Append], adopted: list[int]) -> None:
    documents = [{"_id": name, **_key(view, op)} for name, op in ops.items()]
    for attempt in range(_ATTEMPTS):
        taken = await _taken(state.collections.idempotency, documents)
        again: list[Raw] = []
        for document in taken:
            op = ops[document["_id"]]
            mine = _key(view, op)
            if document["mid"] == op.message.id:
                continue
            if document["until"] <= asked_at(op):
                if not await _replace(state.collections.idempotency, document, mine):
                    again.append({"_id": document["_id"], **mine})
            elif document["digest"] == mine["digest"] and not document.get("done", 1):
                op.message.id = document["mid"]
                adopted.append(op.message.id)
            else:
                view.once[document["_id"]] = document
        documents = again
        if not again:
            return
        await state.pause(attempt)
    raise StorageUnavailable("mongodb: a claim changes hands again and again")


def _key(view: View, op: Append) -> Raw:
    once = Once(content_of(op), op.message.id, 0, op.idempotency_until)
    return {**once_document(once, done=False), "v": view.version}


async def _taken(collection: Collection, documents: list[Raw]) -> list[Raw]:
    """Insert; of those whose key is taken, what is there."""
    written = await insert_some(collection, documents)
    rest = [document["_id"] for n, document in enumerate(documents) if n not in written]
    if not rest:
        return []
    with storage_errors():
        found = {document["_id"]: document for document in await collection.find({"_id": {"$in": rest}}).to_list(None)}
    # What is taken and not to be seen has no majority yet: it is looked at again, as one that is in the way.
    return [
        found.get(name, {"_id": name, "mid": -1, "released": 0, "digest": b"", "generation": 0, "until": 0}) for name in rest
    ]


async def _replace(collection: Collection, seen: Raw, document: Raw) -> bool:
    """Take the place of a claim that is free again, unless somebody was faster."""
    query = {"_id": seen["_id"], "mid": seen["mid"]}
    if "released" in seen:
        query["released"] = seen["released"]
    with storage_errors():
        return (await collection.update_one(query, {"$set": document})).matched_count == 1
