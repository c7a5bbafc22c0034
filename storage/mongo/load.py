"""Reading what a plan starts from. One batch per kind, nothing where memory knows it.

Over 300 lines: what each kind of operation needs is read by one function each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from storage.mongo.codec import device_id, kept_device, places_of, subscription, subscription_id
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.names import refuse_unstorable
from storage.mongo.participation import read_positions
from storage.mongo.rows import load_rows
from storage.mongo.state import State, batches, first_at, head_of
from storage.mongo.view import Head, View
from storage.records import (
    Append,
    CloseSession,
    DeviceKey,
    MarkRead,
    OpenSession,
    Operation,
    Progress,
    Release,
    Subscribe,
    Unsubscribe,
)
from storage.rules import Start

_OF_DEVICES = (OpenSession, CloseSession, Subscribe, Unsubscribe, Progress, Release)
_BATCH = 1000
_AT_ONCE = 16
_LITTLE = 64
"""Entries that are read whole."""

Wanted = dict[str, dict[tuple[int, str], list[tuple[int, int]]]]
"""Entries that may be there: by inbox, and by message id and target, their keys in `View.entries`, in rising order."""


async def load(state: State, view: View, appends: Sequence[Append], others: Sequence[Operation]) -> None:
    """The devices, subscriptions, keys and positions that a group touches, for `storage.mongo.sessions.draft`."""
    refuse_unstorable(appends)
    refuse_unstorable(others)
    devices = {op.received[0] for op in appends if op.received is not None and op.error is None}
    if devices or others:
        await _load_others(state, view, devices, others)


async def _load_others(state: State, view: View, devices: set[DeviceKey], others: Sequence[Operation]) -> None:
    filters: set[tuple[DeviceKey, str]] = set()
    whole: set[DeviceKey] = set()
    pairs: set[tuple[str, str]] = set()
    for op in others:
        if op.error is not None:
            continue
        if isinstance(op, MarkRead):
            pairs.add((op.user, op.topic))
        elif isinstance(op, _OF_DEVICES):
            devices.add(op.device)
            if isinstance(op, Subscribe):
                filters.update((op.device, s.filter) for s in op.subscriptions)
            elif isinstance(op, Unsubscribe):
                filters.update((op.device, name) for name in op.filters)
            elif isinstance(op, OpenSession) or (isinstance(op, CloseSession) and op.delete):
                whole.add(op.device)
    if devices:
        await load_devices(state, view, devices)
    if filters or whole:
        await _load_subscriptions(state, view, filters, whole)
    if pairs:
        view.positions = await read_positions(state, list(pairs))
    await load_rows(state, view, others)


async def load_ends(state: State, view: View, appends: Sequence[Append], others: Sequence[Operation]) -> None:
    """Where the timelines of a group end, once it has told who is to get what, and where its messages are stored already."""
    stored = [op for op in appends if op.store and op.error is None]
    topics = {op.message.topic for op in stored}
    users = {user for op in stored for user in op.recipients}
    marked: set[str] = set()
    fresh: set[str] = set()
    starts: list[OpenSession] = []
    for op in others:
        if op.error is not None:
            continue
        if isinstance(op, MarkRead):  # a position ends where the conversation does: others may have written since
            marked.add(op.topic)
        elif isinstance(op, (OpenSession, Subscribe)):
            fresh.add(op.device.user)
            if isinstance(op, OpenSession):
                starts.append(op)
    known = set(view.topics)  # as they were before messages were looked for: see `find_stored`
    view.topics.update(await topic_heads(state, topics - marked - known))
    view.inboxes.update(await inbox_heads(state, users - fresh))
    if others:
        view.topics.update(await topic_heads(state, marked - known, fresh=True))
        view.inboxes.update(await inbox_heads(state, fresh, fresh=True))
    for start in starts:
        await _load_start(state, view, start)


async def by_id(collection: Collection, ids: list[str]) -> list[Raw]:
    """Documents by their keys."""
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
    if missing:
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
    if missing:
        c = state.collections
        found = await _stored_heads(state, c.sync, c.users, "user", missing, registered=not fresh)
        heads.update({user: head.seq for user, head in found.items()})
    return heads


async def look_behind(state: State, view: View, wanted: Wanted, lowest: Mapping[str, int]) -> dict[str, Raw]:
    """Which of the entries are there from ``lowest`` on, and the newest entry behind each inbox's end in ``view``, where there
    is one: at one moment, in one read each."""
    newest: dict[str, Raw] = {}
    for some in batches(wanted, _AT_ONCE):
        found = await asyncio.gather(*(_behind(state, view, user, wanted[user], lowest[user]) for user in some))
        for user, entries in zip(some, found, strict=True):
            known = _by_message(entries)
            for entry, keys in wanted[user].items():
                view.entries.update(zip(keys, known.get(entry, ()), strict=False))
            if entries and entries[-1]["seq"] > view.inboxes[user]:
                newest[user] = entries[-1]
    return newest


async def _behind(state: State, view: View, user: str, entries: Iterable[tuple[int, str]], lowest: int) -> list[Raw]:
    """What stands in an inbox from ``lowest`` on: all of it where that is little, else those of the messages, and the newest.

    The newest is read first: what comes behind it meanwhile is in the way of who inserts there. No query has an ``$or``: a
    server may read the whole collection for one.
    """
    query: Raw = {"user": {"$eq": user}, "seq": {"$gte": lowest}}
    newest: list[Raw] = []
    if view.inboxes[user] - lowest > _LITTLE:
        last = await state.last_entry(state.collections.sync, "user", user)
        newest = [last] if last is not None else []
        query["mid"] = {"$in": list({mid for mid, _ in entries})}
    fields = {"seq": 1, "mid": 1, "target": 1, "turns": 1}
    with storage_errors():
        found = await state.collections.sync.find(query, fields).sort("seq", 1).to_list(None)
    return [entry for entry in found if not newest or entry["seq"] < newest[0]["seq"]] + newest


async def last_entries(state: State, users: Iterable[str]) -> dict[str, Raw]:
    """The newest entries of inboxes, as they are in the database now; ``seq`` and ``mid`` of each. Of one without, its head."""
    found: dict[str, Raw] = {}
    for some in batches(users, _AT_ONCE):
        last = await asyncio.gather(*(state.last_entry(state.collections.sync, "user", user) for user in some))
        found.update({user: entry for user, entry in zip(some, last, strict=True) if entry is not None})
        if empty := [user for user in some if user not in found]:
            heads = await inbox_heads(state, empty, fresh=True)
            found.update({user: {"seq": head, "mid": 0} for user, head in heads.items()})
    return found


async def _stored_heads(
    state: State, entries: Collection, registry: Collection, name: str, timelines: list[str], *, registered: bool
) -> dict[str, Head]:
    """``registered``: a timeline that is not registered has no entries, which holds unless another writer is at work."""
    heads: dict[str, Head] = {}
    for batch in batches(timelines, _BATCH):
        floors = {d["_id"]: d for d in await by_id(registry, batch)} if registered else {}
        heads.update(dict.fromkeys(batch, Head(0, 0)))
        for some in batches([t for t in batch if t in floors or not registered], _AT_ONCE):
            found = await asyncio.gather(*(state.last_entry(entries, name, timeline) for timeline in some))
            # One without entries may have had all of them removed. A time is only ever too low: others' clocks may be ahead.
            empty = [t for t, last in zip(some, found, strict=True) if last is None]
            floors.update({d["_id"]: d for d in await by_id(registry, empty)} if empty else {})
            heads.update({t: head_of(last, floors.get(t)) for t, last in zip(some, found, strict=True)})
    return heads


# --- sessions ------------------------------------------------------------------------------------------------------


async def load_devices(state: State, view: View, keys: Iterable[DeviceKey], *, fresh: bool = False) -> None:
    """Devices as they are stored; ``fresh``: also those that this node has."""
    devices = {key: None if fresh else state.devices.get(key) for key in keys}
    ended: dict[DeviceKey, tuple[int, int]] = {}
    for batch in batches((device_id(key) for key, known in devices.items() if known is None), _BATCH):
        for document in await by_id(state.collections.devices, batch):
            kept = kept_device(document)
            if document.get("gone"):
                ended[kept.device.key] = (kept.revision, kept.device.epoch)
            else:
                devices[kept.device.key] = kept
    # The view is as it was where storage is away by now: the step is made again from it.
    for key in devices:
        view.ended.pop(key, None)
    view.devices.update(devices)
    view.ended.update(ended)


async def load_again(state: State, view: View, keys: Iterable[DeviceKey]) -> None:
    """Devices that somebody else has written meanwhile, and their subscriptions."""
    whole = set(keys)
    await load_devices(state, view, whole, fresh=True)
    for key in whole:
        view.subscriptions.pop(key, None)
    await _load_subscriptions(state, view, set(), whole)


async def _load_subscriptions(state: State, view: View, filters: set[tuple[DeviceKey, str]], whole: set[DeviceKey]) -> None:
    """Some of the devices' subscriptions by filter, and all of the ``whole`` devices'."""
    wanted = (subscription_id(key, name) for key, name in filters if key not in whole and view.devices.get(key) is not None)
    for batch in batches(wanted, _BATCH):
        _add_subscriptions(view, await by_id(state.collections.subscriptions, batch))
    for key in whole:
        if view.devices.get(key) is not None:
            between = {"$gt": subscription_id(key, ""), "$lt": device_id(key) + "\1"}
            with storage_errors():
                _add_subscriptions(view, await state.collections.subscriptions.find({"_id": between}).to_list(None))


def _add_subscriptions(view: View, documents: list[Raw]) -> None:
    for document in documents:
        key = DeviceKey(document["user"], document["client"])
        kept = view.devices.get(key)
        if kept is not None and document["generation"] == kept.generation and not document.get("gone"):
            view.subscriptions.setdefault(key, {})[document["filter"]] = subscription(document)


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


# --- messages that are stored already ------------------------------------------------------------------------------


async def find_stored(state: State, view: View, group: Sequence[Operation], ids: Iterable[int]) -> set[int]:
    """Which of the messages are stored, by an earlier attempt or by another writer, and which entries they have.

    Their recipients are then those that they are stored with. Heads are read before messages and entries are looked for:
    whoever else stores one, or gives it an entry, meanwhile does so behind that head, where an insert of ours finds it. So no
    message is stored twice, also where no index keeps its id unique (a sharded database).
    """
    ids = set(ids)
    topics = {op.message.topic for op in group if isinstance(op, Append) and op.store and op.message.id in ids}
    view.topics.update(await topic_heads(state, topics - view.topics.keys(), fresh=True))
    stored: dict[int, Raw] = {}
    fields = {"mid": 1, "seq": 1, "time": 1, "recipients": 1, "places": 1}
    for batch in batches(ids, _BATCH):
        with storage_errors():
            found = await state.collections.store.find({"mid": {"$in": batch}}, fields).to_list(None)
        stored.update({document["mid"]: document for document in found})
    if not stored:
        return set()
    view.stored.update({mid: Head(document["seq"], document["time"]) for mid, document in stored.items()})
    wanted: Wanted = {}
    lowest: dict[str, int] = {}
    for index, op in enumerate(group):
        if isinstance(op, Append) and op.store and (document := stored.get(op.message.id)) is not None:
            op.recipients = document.get("recipients", [])
            for k, (user, place) in enumerate(zip(op.recipients, places_of(document), strict=True)):
                wanted.setdefault(user, {}).setdefault((op.message.id, ""), []).append((index, k))
                lowest[user] = min(place, lowest.get(user, place))
    view.inboxes.update(await inbox_heads(state, wanted, fresh=True))
    await find_entries(state, view, wanted, lowest)
    await _find_removed(state, view, wanted, lowest)
    return set(stored)


async def find_entries(
    state: State,
    view: View,
    wanted: Wanted,
    lowest: Mapping[str, int],
) -> None:
    """Which of the entries are there, from ``lowest`` on."""
    for some in batches(wanted, _AT_ONCE):
        found = await asyncio.gather(*(places(state, user, {mid for mid, _ in wanted[user]}, lowest[user]) for user in some))
        for user, known in zip(some, found, strict=True):
            for entry, keys in wanted[user].items():
                view.entries.update(zip(keys, known.get(entry, ()), strict=False))


async def _find_removed(state: State, view: View, wanted: Wanted, lowest: Mapping[str, int]) -> None:
    """Entries that are not there because retention has been over their places."""
    lacking: dict[str, list[tuple[int, int]]] = {}
    for user, entries in wanted.items():
        lacking[user] = [key for keys in entries.values() for key in keys if key not in view.entries]
    for batch in batches([user for user, keys in lacking.items() if keys], _BATCH):
        for floor in await by_id(state.collections.users, batch):
            if floor["floor"] >= lowest[floor["_id"]]:
                view.entries.update(dict.fromkeys(lacking[floor["_id"]], 0))


async def places(state: State, user: str, ids: Iterable[int], lowest: int = 0) -> dict[tuple[int, str], list[int]]:
    """Where a user's inbox has the messages, from the sequence ``lowest`` on: by message id and target, in rising order."""
    found: dict[tuple[int, str], list[int]] = {}
    for batch in batches(ids, _BATCH):
        query: Raw = {"user": {"$eq": user}, "seq": {"$gte": lowest}, "mid": {"$in": batch}}
        with storage_errors():
            entries = await state.collections.sync.find(query, {"seq": 1, "mid": 1, "target": 1}).sort("seq", 1).to_list(None)
        found.update(_by_message(entries))
    return found


def _by_message(entries: Iterable[Raw]) -> dict[tuple[int, str], list[int]]:
    found: dict[tuple[int, str], list[int]] = {}
    for entry in entries:
        found.setdefault((entry["mid"], entry.get("target", "")), []).append(entry["seq"])
    return found
