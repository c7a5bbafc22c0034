"""Messages that one node stored under another node's ids, when those may have been read past: a tail of their own.

A node stores a message under the id that another one had claimed for it, which may be hours old. Who follows that node's ids is
behind it by then (`storage.interface.LATE`). So it is listed here, once it is stored and before it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import StorageUnavailable
from storage.interface import TailPage
from storage.messages import Message
from storage.mongo.codec import message as message_of
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.state import State

_ATTEMPTS = 100
_AT_ONCE = 32
_SWEPT = 1000


async def end(state: State) -> int:
    """The last place; 0 where nothing was ever stored late."""
    with storage_errors():
        last = await state.collections.late.find_one({}, {"seq": 1}, sort=[("seq", -1)])
    return int(last["seq"]) if last is not None else 0


async def tell(state: State, mids: Sequence[int]) -> None:
    """List messages that are stored. May be repeated, by several at once: one may then be there twice."""
    late = state.collections.late
    with storage_errors():
        found = await late.find({"mid": {"$in": list(mids)}}, {"mid": 1}).to_list(None)
    there = {document["mid"] for document in found}
    missing = [mid for mid in mids if mid not in there]
    seq = await end(state) if missing else 0
    for mid in missing:
        for attempt in range(_ATTEMPTS):
            document = {"_id": f"{seq + 1:016d}", "seq": seq + 1, "mid": mid, "at": await state.now()}
            if await inserted(late, document):
                seq += 1
                break
            await state.pause(attempt)
            seq = await end(state)
        else:
            raise StorageUnavailable("mongodb: listing what was stored late found its place taken again and again")


async def sweep(state: State, before: int) -> None:
    """Remove those that are older (ms), and whose messages are in the store no more; the last one stays, as the end."""
    c = state.collections
    last = await end(state)
    with storage_errors():
        old = await c.late.find({"at": {"$lt": before}, "seq": {"$lt": last}}).sort("at", 1).limit(_SWEPT).to_list(None)
        kept = await c.store.find({"mid": {"$in": [entry["mid"] for entry in old]}}, {"mid": 1}).to_list(None) if old else []
        there = {document["mid"] for document in kept}
        if gone := [entry["_id"] for entry in old if entry["mid"] not in there]:
            await c.late.delete_many({"_id": {"$in": gone}})


async def read(state: State, after: int, through: int, limit: int, max_bytes: int) -> TailPage:
    """See `storage.interface.Tails.read_tail_of`."""
    messages: list[Message] = []
    size = 0
    while after < through and len(messages) < limit and size < max_bytes:
        query = {"seq": {"$gt": after, "$lte": through}}
        with storage_errors():
            some = min(_AT_ONCE, limit - len(messages))
            page = await state.collections.late.find(query).sort("seq", 1).limit(some).to_list(None)
            if not page:
                return TailPage(messages, through)  # the rest was removed with its messages
            mids = [document["mid"] for document in page]
            found = {d["mid"]: d async for d in state.collections.store.find({"mid": {"$in": mids}})}
        for entry in page:
            after = entry["seq"]
            if (document := found.get(entry["mid"])) is not None:
                messages.append(message_of(document))
                size += len(messages[-1].payload)
            if size >= max_bytes:
                break
    return TailPage(messages, after)
