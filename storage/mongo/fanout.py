"""Finishing the fan-out of messages that another node has stored, in the order of its groups.

An entry is written only at a sequence that was free when the inbox, up to there, was looked through for the message. So two
that finish the same message at the same time give it one entry: the slower one finds its key taken, and looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from storage.errors import StorageUnavailable
from storage.mongo.codec import places_of
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.encoding import Entry
from storage.mongo.inboxes import write_entries
from storage.mongo.load import inbox_heads, places
from storage.mongo.state import State, batches

_AT_ONCE = 16
_ATTEMPTS = 100
_PAGE = 256


async def fan_out(state: State, pending: list[Raw]) -> tuple[int, dict[str, int]]:
    """Give the messages to those of their recipients that lack them, in the order of the list; how many entries that took, and
    where the inboxes of all recipients end."""
    wanted: dict[str, list[int]] = {}
    lowest: dict[str, int] = {}
    for document in pending:
        for user, place in zip(document.get("recipients", ()), places_of(document), strict=True):
            wanted.setdefault(user, []).append(document["mid"])
            lowest[user] = min(place, lowest.get(user, place))
    added = 0
    for attempt in range(_ATTEMPTS):
        heads, entries = await _missing(state, pending, wanted, lowest)
        written = await write_entries(state.collections.sync, entries)
        added += len(written)
        if len(written) == len(entries):
            return added, heads
        await state.pause(attempt)
    raise StorageUnavailable("mongodb: finishing a fan-out found its place taken again and again")


async def _missing(
    state: State, pending: list[Raw], wanted: dict[str, list[int]], lowest: dict[str, int]
) -> tuple[dict[str, int], list[Entry]]:
    """The entries that are to be written. The heads are read first: what comes behind them makes the insert fail."""
    heads = await inbox_heads(state, wanted, fresh=True)
    found: dict[str, set[int]] = {}
    for some in batches(wanted, _AT_ONCE):
        known = await asyncio.gather(*(places(state, user, wanted[user], lowest[user]) for user in some))
        found.update({user: {mid for mid, target in one if not target} for user, one in zip(some, known, strict=True)})
    removed = await _floors(state, [user for user, mids in wanted.items() if not found[user].issuperset(mids)])
    lacking = sorted({mid for user, mids in wanted.items() for mid in mids if mid not in found[user]})
    sizes = {document["mid"]: len(document["payload"]) async for document in whole(state, lacking)}
    entries: list[Entry] = []
    for document in pending:
        mid = document["mid"]
        for user, place in zip(document.get("recipients", ()), places_of(document), strict=True):
            if mid in found[user] or 0 < place <= removed.get(user, 0):
                continue
            found[user].add(mid)
            seq = heads[user] = heads[user] + 1
            entries.append((user, seq, mid, sizes.get(mid, 0), document["time"], "", b""))
    return heads, entries


async def _floors(state: State, users: list[str]) -> dict[str, int]:
    """Up to where retention has been over inboxes: what is not there by now is not missing."""
    floors: dict[str, int] = {}
    for batch in batches(users, _PAGE):
        with storage_errors():
            found = await state.collections.users.find({"_id": {"$in": batch}}).to_list(None)
        floors.update({document["_id"]: document["floor"] for document in found})
    return floors


async def whole(state: State, mids: list[int]) -> AsyncIterator[Raw]:
    """The messages with their payloads, a few at a time."""
    for batch in batches(mids, _PAGE):
        with storage_errors():
            async for document in state.collections.store.find({"mid": {"$in": batch}}).batch_size(16):
                yield document
