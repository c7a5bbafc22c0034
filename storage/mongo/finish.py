"""Finishing what a node stored and did not fan out, and what else its messages bring: see `storage.cluster.Cluster.finish`.

A group begins only once the one before it is complete, so that what is half done is behind what the node is known to be done
with. Each message is in the store with its recipients and with what it does to devices, retained messages and keys. The node
itself may be at it at the same time: the guards of a commit keep either from doing anything twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from storage.cluster import Change, Finished
from storage.errors import StorageUnavailable
from storage.mongo.codec import claim_id, device_id, kept_device, once_document, pack_packet_ids, retained_document
from storage.mongo.codec import message as message_of
from storage.mongo.connection import storage_errors
from storage.mongo.documents import TOKEN_SHIFT, Raw
from storage.mongo.fanout import fan_out, whole
from storage.mongo.intents import Adopted, announced, true_ones
from storage.mongo.late import tell as tell_late
from storage.mongo.recalls import recall
from storage.mongo.rows import finish_rows
from storage.mongo.state import State, batches
from storage.mongo.view import NO_FLOOR, Write
from storage.mongo.writes import write_state
from storage.records import DeviceKey
from storage.rules import Once, content_digest

_ATTEMPTS = 20
_BATCH = 1000
_BEHIND_ALL = 1 << 63


async def finish(
    state: State,
    token: int,
    number: int,
    done: int,
    append_routes: Callable[[Sequence[Change]], Awaitable[object]] | None = None,
) -> Finished:
    """Complete what the node ``token`` stored with ids of its ``number`` above ``done``. May be repeated, by several at once.

    A node that never stored anything has ``done`` 0: its number keeps that from being a look through the whole store.
    """
    changes, adopted = await announced(state, token)
    # A bare number, and the version looked at here: SecantusDB takes the index for no other query.
    stored = await _stored(state, {"writer": number, "mid": {"$gt": done}})
    pending = [document for document in stored if document["v"] >> TOKEN_SHIFT == token]
    mids = {one.mid for one in adopted}
    if mids:
        pending += [
            d for d in await _stored(state, {"mid": {"$in": list(mids)}}) if d["mid"] not in {p["mid"] for p in pending}
        ]
    pending = _in_order(pending, adopted)
    added, heads = await fan_out(state, pending)
    if late := [document["mid"] for document in pending if document["mid"] in mids]:
        await tell_late(state, late)
    await apply_state(state, pending)
    if append_routes is not None and (last := await true_ones(state, changes)):
        await append_routes(last)
    await finish_removals(state)
    return Finished(added, list(heads.items()), [(document["mid"], document["topic"]) for document in pending])


async def _stored(state: State, query: Raw) -> list[Raw]:
    """Messages without their payloads."""
    with storage_errors():
        return await state.collections.store.find(query, {"payload": 0, "properties": 0}).to_list(None)


def _in_order(pending: list[Raw], adopted: Sequence[Adopted]) -> list[Raw]:
    """Messages in the order of their groups: by id, but for those of other nodes' ids, whose places the group has told."""
    places = {one.mid: (one.before or _BEHIND_ALL, 0, number) for number, one in enumerate(adopted)}
    return sorted(pending, key=lambda document: places.get(document["mid"], (document["mid"], 1, 0)))


async def apply_state(state: State, pending: Sequence[Raw]) -> None:
    """What messages do beside their inbox entries: registries, packet ids, retained messages, keys."""
    writes = [Write("conversations", "register", d["topic"], dict(NO_FLOOR)) for d in pending if d["seq"] == 1]
    users = {user: None for document in pending for user in document.get("recipients", ())}
    writes += [Write("users", "register", user, dict(NO_FLOOR)) for user in users]
    for document in pending:
        if "received" in document:
            user, client_id, packet_id = document["received"]
            await _receive(state, DeviceKey(user, client_id), packet_id, document["mid"])
    content = sorted(d["mid"] for d in pending if d.get("keep") or d.get("once"))
    last: dict[str, int] = {}  # of each topic, what it retains in the end
    for document in pending:
        if document.get("keep"):
            last[document["topic"]] = max(document["seq"], last.get(document["topic"], 0))
    now = await state.now()
    async for document in whole(state, content):
        message, version = message_of(document), document["v"]
        if document.get("keep") and message.seq == last[message.topic]:
            fields = retained_document(message, message.seq, message.time, version, now)
            writes.append(Write("retained", "set", message.topic, fields))
        if document.get("once"):
            digest = document.get("once_content") or content_digest(message)
            fields = once_document(Once(digest, message.id, message.seq, document["once_until"]), done=True)
            writes.append(Write("idempotency", "set", document["once"], {**fields, "v": version}))
    for some in batches(writes, _BATCH):
        await write_state(state, some, 0)
    for document in pending:
        if recalls := document.get("recalls"):
            await recall(state, document["topic"], recalls, document["mid"], 0)
    await finish_rows(state, pending)


async def _receive(state: State, key: DeviceKey, packet_id: int, mid: int) -> None:
    """The device remembers the packet id of a message, unless that was released."""
    c = state.collections
    for attempt in range(_ATTEMPTS):
        with storage_errors():
            claim = await c.claims.find_one({"_id": claim_id(key, packet_id)})
            if claim is None or claim["mid"] != mid or claim["released"]:
                return
            document = await c.devices.find_one({"_id": device_id(key)})
            if document is None or document.get("gone") or document["generation"] != claim["generation"]:
                return
            received = kept_device(document).device.received
            if packet_id in received:
                return
            fields = {"received": pack_packet_ids(sorted({*received, packet_id})), "revision": document["revision"] + 1, "v": 0}
            seen = {"_id": document["_id"], "revision": document["revision"]}
            if (await c.devices.update_one(seen, {"$set": fields})).matched_count:
                state.devices.forget([key])
                return
        await state.pause(attempt)
    raise StorageUnavailable(f"mongodb: device {key.client_id!r} changes again and again")


async def finish_removals(state: State) -> None:
    """A removal of old entries that was begun is made to its end: its floor is there already."""
    with storage_errors():
        removals = await state.collections.meta.find({"kind": {"$gt": ""}}).to_list(None)
        for removal in removals:
            kind, name = removal["kind"], removal["name"]
            entries = state.collections.store if kind == "topic" else state.collections.sync
            await entries.delete_many({kind: {"$eq": name}, "seq": {"$lte": removal["through"]}})
            await state.collections.meta.delete_one({"_id": removal["_id"], "through": removal["through"]})
