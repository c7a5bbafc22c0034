"""What `open` finishes before it returns: a fan-out that a crash cut short, and a removal that was under way.

A group begins only once the one before it is complete, so only the last group of each holder of the lease can be incomplete.
Its messages are in the store in their order, each with its recipients and with what it does to devices, retained messages and
keys. An inbox has the last holder's last group at its end, or lacks the last of its entries; where others may have written
behind it, the whole inbox is looked through. Nobody was acknowledged for what is finished here.
"""

from __future__ import annotations

from storage.mongo.codec import message as message_of
from storage.mongo.codec import once_document, pack_packet_ids, retained_document
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw, pair_key
from storage.mongo.fanout import Given, fan_out, in_order, whole
from storage.mongo.lease import TOKEN_SHIFT
from storage.mongo.load import places
from storage.mongo.state import State, batches
from storage.mongo.view import NO_FLOOR, Write
from storage.mongo.writers import forget_announcements
from storage.mongo.writes import CHUNK, write_state
from storage.rules import Once, content_digest

_PAGE = 256


async def recover(state: State, done: int, *, was_shared: bool) -> tuple[int, int]:
    """Finish what was interrupted; how many inbox entries were missing, and up to which id all is finished now.

    Messages up to id ``done`` are known to be complete. ``was_shared``: several writers have written at the same time.
    """
    groups, highest = await _last_groups(state, done)
    added = 0
    if groups:
        last = set() if was_shared else {document["mid"] for document in groups[max(groups)]}
        pending = in_order(document for group in groups.values() for document in group)
        added = await fan_out(state, pending, _given(state, last))
        await apply_state(state, pending)
    await _finish_removals(state)
    await forget_announcements(state)
    with storage_errors():
        await state.collections.retained.delete_many({"gone": 1})
    return added, highest


async def _last_groups(state: State, done: int) -> tuple[dict[int, list[Raw]], int]:
    """Messages of the last group of each holder, by its token, without their payloads, and the highest id that was seen."""
    groups: dict[int, list[Raw]] = {}
    highest = done
    with storage_errors():
        cursor = state.collections.store.find({"mid": {"$gt": done}}, {"payload": 0, "properties": 0})
        async for document in cursor:
            version, highest = document["v"], max(highest, document["mid"])
            group = groups.setdefault(version >> TOKEN_SHIFT, [])
            if group and version > group[0]["v"]:
                group.clear()
            if not group or version == group[0]["v"]:
                group.append(document)
    return groups, highest


def _given(state: State, last: set[int]) -> Given:
    """Looks messages up in inboxes: those of the group that ends its inboxes (``last``) at their ends, others anywhere."""

    async def given(user: str, mids: list[int]) -> set[int]:
        others = [mid for mid in mids if mid not in last]
        found = set(await places(state, user, others))
        return found | await _at_the_end(state, user, last) if len(others) < len(mids) else found

    return given


async def _at_the_end(state: State, user: str, mids: set[int]) -> set[int]:
    found: set[int] = set()
    query: Raw = {"user": {"$eq": user}}
    while True:
        with storage_errors():
            page = await state.collections.sync.find(query).sort("seq", -1).limit(_PAGE).to_list(None)
        for entry in page:
            if entry.get("target"):
                continue
            if entry["mid"] not in mids:
                return found
            found.add(entry["mid"])
        if len(page) < _PAGE:
            return found
        query["seq"] = {"$lt": page[-1]["seq"]}


async def apply_state(state: State, pending: list[Raw]) -> None:
    """What messages do beside their inbox entries (registries, packet ids, retained messages, keys), unless later ones did."""
    for version in sorted({document["v"] for document in pending}):
        group = [document for document in pending if document["v"] == version]
        writes = [Write("conversations", "register", d["topic"], dict(NO_FLOOR)) for d in group if d["seq"] == 1]
        users = {user: None for document in group for user in document.get("recipients", ())}
        writes += [Write("users", "register", user, dict(NO_FLOOR)) for user in users]
        writes += await _received(state, group, version)
        wanted = {d["topic"]: d["mid"] for d in group if d.get("keep")}
        content = set(wanted.values()) | {d["mid"] for d in group if d.get("once")}
        async for document in whole(state, sorted(content)):
            message = message_of(document)
            if wanted.get(message.topic) == message.id:
                fields = retained_document(message, message.seq, message.time)
                writes.append(Write("retained", "set", message.topic, fields))
            if document.get("once"):
                fields = once_document(Once(content_digest(message), message.id, message.seq, document["once_until"]))
                writes.append(Write("idempotency", "set", document["once"], fields))
        await write_state(state, writes, version)


async def _received(state: State, group: list[Raw], version: int) -> list[Write]:
    """Packet ids that their devices do not know of. A device that the group wrote to has its version, or a later one."""
    packet_ids: dict[str, set[int]] = {}
    for document in group:
        if "received" in document:
            user, client_id, packet_id = document["received"]
            packet_ids.setdefault(pair_key(user, client_id), set()).add(packet_id)
    writes = []
    for batch in batches(packet_ids, CHUNK):
        with storage_errors():
            devices = await state.collections.devices.find({"_id": {"$in": batch}}).to_list(None)
        for device in devices:
            if device["v"] < version:
                known = {int.from_bytes(device["received"][i : i + 2]) for i in range(0, len(device["received"]), 2)}
                received = pack_packet_ids(sorted(known | packet_ids[device["_id"]]))
                writes.append(Write("devices", "change", device["_id"], {"received": received}))
    return writes


async def _finish_removals(state: State) -> None:
    with storage_errors():
        removals = await state.collections.meta.find({"kind": {"$gt": ""}}).to_list(None)
        for removal in removals:
            kind, name = removal["kind"], removal["name"]
            entries = state.collections.store if kind == "topic" else state.collections.sync
            await entries.delete_many({kind: {"$eq": name}, "seq": {"$lte": removal["through"]}})
            await state.collections.meta.delete_one({"_id": removal["_id"]})
