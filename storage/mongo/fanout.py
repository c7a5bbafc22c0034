"""Finishing the fan-out of messages that somebody else has stored, in the order of their publishers.

An entry is written only at a sequence that was free when the inbox, up to there, was looked through for the message. So two
that finish the same message at the same time give it one entry: the slower one finds its key taken, and looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from storage.errors import StorageUnavailable
from storage.mongo.connection import DUPLICATE_KEY, storage_errors
from storage.mongo.documents import Raw, timeline_key
from storage.mongo.lease import TOKEN_SHIFT
from storage.mongo.load import inbox_heads
from storage.mongo.state import State, batches
from storage.mongo.writes import CHUNK, insert

_AT_ONCE = 16
_ATTEMPTS = 100
_PAGE = 256

Given = Callable[[str, list[int]], Awaitable[set[int]]]
"""Of some messages, those that a user's inbox has."""


def in_order(documents: Iterable[Raw]) -> list[Raw]:
    """Messages in an order that agrees with that of every conversation, and of the ids of every writer.

    Where neither decides, ids do, which are as good as the clocks that they were made by.
    """
    writers: dict[int, list[Raw]] = {}
    topics: dict[str, list[int]] = {}
    for document in sorted(documents, key=lambda d: int(d["mid"]), reverse=True):
        writers.setdefault(document["v"] >> TOKEN_SHIFT, []).append(document)
        topics.setdefault(document["topic"], []).append(document["seq"])
    for seqs in topics.values():
        seqs.sort(reverse=True)
    ordered = []
    while fronts := [left for left in writers.values() if left]:
        free = [left for left in fronts if topics[left[-1]["topic"]][-1] == left[-1]["seq"]]
        document = min(free or fronts, key=lambda left: int(left[-1]["mid"])).pop()
        topics[document["topic"]].remove(document["seq"])
        ordered.append(document)
    return ordered


async def fan_out(state: State, pending: list[Raw], given: Given) -> int:
    """Give the messages to those of their recipients that lack them, in the order of the list; how many entries that took."""
    wanted: dict[str, list[int]] = {}
    for document in pending:
        for user in document.get("recipients", ()):
            wanted.setdefault(user, []).append(document["mid"])
    added = 0
    for attempt in range(_ATTEMPTS):
        entries = await _missing(state, pending, wanted, given)
        written, code = await _insert(state, entries)
        added += written
        if not code:
            return added
        if code != DUPLICATE_KEY:
            raise StorageUnavailable(f"mongodb: finishing a fan-out failed with code {code} at {entries[written]['_id']!r}")
        await asyncio.sleep(min(0.002 * attempt, 0.1))  # what took the key may not have its majority yet
    raise StorageUnavailable("mongodb: finishing a fan-out found its place taken again and again")


async def _missing(state: State, pending: list[Raw], wanted: dict[str, list[int]], given: Given) -> list[Raw]:
    """The entries that are to be written. The heads are read first: what comes behind them makes the insert fail."""
    heads = await inbox_heads(state, wanted, fresh=True)
    found: dict[str, set[int]] = {}
    for some in batches(wanted, _AT_ONCE):
        found.update(zip(some, await asyncio.gather(*(given(user, wanted[user]) for user in some)), strict=True))
    lacking = sorted({mid for user, mids in wanted.items() for mid in mids if mid not in found[user]})
    sizes = {document["mid"]: len(document["payload"]) async for document in whole(state, lacking)}
    entries: list[Raw] = []
    for document in pending:
        mid = document["mid"]
        for user in document.get("recipients", ()):
            if mid in found[user]:
                continue
            found[user].add(mid)
            seq = heads[user] = heads[user] + 1
            entry = {"_id": timeline_key(user, seq), "user": user, "seq": seq, "mid": mid}
            entries.append({**entry, "size": sizes.get(mid, 0), "time": document["time"]})
    return entries


async def _insert(state: State, entries: list[Raw]) -> tuple[int, int]:
    """As `storage.mongo.writes.insert`, of any number."""
    written = 0
    for batch in batches(entries, CHUNK):
        some, code = await insert(state.collections.sync, batch)
        written += some
        if code:
            return written, code
    return written, 0


async def whole(state: State, mids: list[int]) -> AsyncIterator[Raw]:
    """The messages with their payloads, a few at a time."""
    for batch in batches(mids, _PAGE):
        with storage_errors():
            async for document in state.collections.store.find({"mid": {"$in": batch}}).batch_size(16):
                yield document
