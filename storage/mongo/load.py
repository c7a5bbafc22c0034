"""Reading what a plan starts from. One batch per kind, nothing where memory knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from storage.mongo.codec import device_id, kept_device, once_key, subscription, subscription_id
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.names import refuse_unstorable
from storage.mongo.participation import read_positions
from storage.mongo.state import State, batches, first_at, head_of
from storage.mongo.view import Finished, Head, View
from storage.records import (
    Append,
    DeviceKey,
    DropRetained,
    DropTokens,
    Join,
    MarkRead,
    OpenSession,
    Operation,
    SaveJob,
    SaveToken,
    Subscribe,
    Unsubscribe,
)
from storage.rules import Start

_BATCH = 1000
_AT_ONCE = 16


async def load(state: State, group: Sequence[Operation], version: int) -> View:
    """Everything that ``group`` touches. Raises `storage.errors.StorageUnavailable`."""
    view = View(version, state.clock)
    topics: set[str] = set()
    users: set[str] = set()
    devices: set[DeviceKey] = set()
    filters: set[tuple[DeviceKey, str]] = set()
    keys: set[str] = set()
    repeats: list[Append] = []
    starts: list[OpenSession] = []
    pairs: set[tuple[str, str]] = set()
    for op in group:
        if op.error is not None or refuse_unstorable(op):
            continue
        if isinstance(op, Append):
            message = op.message
            if op.store:
                topics.add(message.topic)
                users.update(op.recipients)
                if message.id <= state.last_id or state.shared:
                    repeats.append(op)
            if op.received is not None:
                devices.add(op.received[0])
            if op.idempotency_key:
                keys.add(once_key(message.user, op.idempotency_key))
            continue
        if isinstance(op, MarkRead):
            topics.add(op.topic)
            pairs.add((op.user, op.topic))
        if isinstance(op, (Join, MarkRead, SaveToken, DropTokens, DropRetained, SaveJob)):
            continue
        devices.add(op.device)
        users.add(op.device.user)
        if isinstance(op, Subscribe):
            filters.update((op.device, s.filter) for s in op.subscriptions)
        elif isinstance(op, Unsubscribe):
            filters.update((op.device, name) for name in op.filters)
        elif isinstance(op, OpenSession):
            starts.append(op)
    view.topics = await topic_heads(state, topics)
    view.inboxes = await inbox_heads(state, users)
    if devices:
        await _load_devices(state, view, devices)
    if filters:
        await _load_subscriptions(state, view, filters)
    if keys:
        for batch in batches(keys, _BATCH):
            view.once.update({d["_id"]: d for d in await _by_id(state.collections.idempotency, batch)})
    if pairs:
        view.positions = await read_positions(state, list(pairs))
    if repeats:
        await _load_finished(state, view, repeats)
    for start in starts:
        await _load_start(state, view, start)
    return view


async def _by_id(collection: Collection, ids: list[str]) -> list[Raw]:
    with storage_errors():
        return await collection.find({"_id": {"$in": ids}}).to_list(None)


# --- heads ---------------------------------------------------------------------------------------------------------


async def topic_heads(state: State, topics: Iterable[str], *, fresh: bool = False) -> dict[str, Head]:
    """The heads of conversations; ``fresh``: as they are in the database now."""
    heads, missing = {}, []
    for topic in topics:
        known = None if fresh else state.topics.get(topic)
        if known is None:
            missing.append(topic)
        else:
            heads[topic] = known
    c = state.collections
    heads.update(await _stored_heads(state, c.store, c.conversations, "topic", missing, registered=not fresh))
    return heads


async def inbox_heads(state: State, users: Iterable[str], *, fresh: bool = False) -> dict[str, int]:
    """The heads of inboxes; ``fresh``: as they are in the database now."""
    heads, missing = {}, []
    for user in users:
        known = None if fresh else state.inboxes.get(user)
        if known is None:
            missing.append(user)
        else:
            heads[user] = known
    c = state.collections
    found = await _stored_heads(state, c.sync, c.users, "user", missing, registered=not fresh)
    heads.update({user: head.seq for user, head in found.items()})
    return heads


async def _stored_heads(
    state: State, entries: Collection, registry: Collection, name: str, timelines: list[str], *, registered: bool
) -> dict[str, Head]:
    """``registered``: a timeline that is not registered has no entries, which holds unless another writer is at work."""
    heads: dict[str, Head] = {}
    for batch in batches(timelines, _BATCH):
        floors = {d["_id"]: d for d in await _by_id(registry, batch)}
        heads.update(dict.fromkeys(batch, Head(0, 0)))
        for some in batches([t for t in batch if t in floors or not registered], _AT_ONCE):
            found = await asyncio.gather(*(state.last_entry(entries, name, timeline) for timeline in some))
            heads.update({t: head_of(last, floors.get(t)) for t, last in zip(some, found, strict=True)})
    return heads


# --- sessions ------------------------------------------------------------------------------------------------------


async def _load_devices(state: State, view: View, keys: set[DeviceKey]) -> None:
    missing = []
    for key in keys:
        known = None if state.shared else state.devices.get(key)
        view.devices[key] = known
        if known is None:
            missing.append(device_id(key))
    for batch in batches(missing, _BATCH):
        for document in await _by_id(state.collections.devices, batch):
            kept = kept_device(document)
            view.devices[kept.device.key] = kept


async def _load_subscriptions(state: State, view: View, filters: set[tuple[DeviceKey, str]]) -> None:
    wanted = (subscription_id(key, name) for key, name in filters if view.devices.get(key) is not None)
    for batch in batches(wanted, _BATCH):
        for document in await _by_id(state.collections.subscriptions, batch):
            key = DeviceKey(document["user"], document["client"])
            kept = view.devices[key]
            if kept is not None and document["generation"] == kept.generation:
                view.subscriptions[key, document["filter"]] = subscription(document)


async def _load_start(state: State, view: View, op: OpenSession) -> None:
    user = op.device.user
    kind, _, number = op.start.partition(":")
    if kind == "latest":
        return
    if user not in view.floors:
        first = await state.first_entry(state.collections.sync, "user", user, state.pruned_inboxes.get(user, 0))
        view.floors[user] = first["seq"] - 1 if first else view.inboxes[user]
    if kind == "since" and number.isascii() and number.isdigit():
        time = Start.parse(op.start).number
        if (seq := await inbox_since(state, user, view.floors[user] + 1, view.inboxes[user], time)) <= view.inboxes[user]:
            view.since[user, time] = seq


async def inbox_since(state: State, user: str, first: int, head: int, time: int) -> int:
    """The lowest sequence of an inbox with that time or later."""

    async def times(seqs: list[int]) -> dict[int, int]:
        with storage_errors():
            found = state.collections.sync.find({"user": {"$eq": user}, "seq": {"$in": seqs}}, {"seq": 1, "time": 1})
            return {entry["seq"]: entry["time"] for entry in await found.to_list(None)}

    return await first_at(head, first, times, time)


# --- messages that were stored before ------------------------------------------------------------------------------


async def stored_messages(state: State, ids: Iterable[int]) -> dict[int, Head]:
    """Sequence and time of those of the messages that are stored."""
    found = {}
    for batch in batches(ids, _BATCH):
        with storage_errors():
            cursor = state.collections.store.find({"mid": {"$in": batch}}, {"mid": 1, "seq": 1, "time": 1})
            found.update({d["mid"]: Head(d["seq"], d["time"]) for d in await cursor.to_list(None)})
    return found


async def _load_finished(state: State, view: View, repeats: list[Append]) -> None:
    """A message whose commit's answer never reached an earlier process, or that was given to two groups."""
    stored = await stored_messages(state, (op.message.id for op in repeats))
    if not stored:
        return
    found = [op for op in repeats if op.message.id in stored]
    wanted: dict[str, list[int]] = {}
    for op in found:
        for user in op.recipients:
            wanted.setdefault(user, []).append(op.message.id)
    found_at = {user: await places(state, user, ids) for user, ids in wanted.items()}
    for op in found:
        entries = [found_at[user].get(op.message.id, 0) for user in op.recipients]
        view.finished[op.message.id] = Finished(*stored[op.message.id], entries)


async def places(state: State, user: str, ids: Iterable[int], after: int = 0) -> dict[int, int]:
    """Where a user's inbox has the messages, for all the user's devices: sequences over ``after``, by message id."""
    found: dict[int, int] = {}
    for batch in batches(ids, _BATCH):
        query: Raw = {"user": {"$eq": user}, "mid": {"$in": batch}}
        if after:
            query["seq"] = {"$gt": after}
        with storage_errors():
            entries = await state.collections.sync.find(query, {"seq": 1, "mid": 1, "target": 1}).to_list(None)
        found.update({entry["mid"]: entry["seq"] for entry in entries if not entry.get("target")})
    return found
