"""Taking the content out of messages: `storage.records.Append.recalls`. May be repeated, by several at once.

The message that recalls is in the store before, with what it recalls: whoever finishes a dead node's group comes here again.

A retained message may still be on its way from a node that is slow, or dead. So its topic gets the mark of one that was
cleared, with the sequence of what was recalled: what has that sequence, or a lower one, does not take its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateMany

from storage.messages import RECALLED_MARK, recalled_mark
from storage.mongo.codec import message as message_of
from storage.mongo.codec import retained_document
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Raw
from storage.mongo.fanout import whole
from storage.mongo.state import State, batches
from storage.mongo.view import Write
from storage.mongo.writes import bulk_write, write_state

_AT_ONCE = 500


async def recall(state: State, topic: str, ids: Sequence[int], by: int, version: int) -> None:
    """Take the content out of those of a topic's messages, for the message ``by``."""
    now = await state.now()
    for some in batches(list(ids), _AT_ONCE):
        with storage_errors():
            found = await state.collections.store.find({"mid": {"$in": some}}, {"payload": 0}).to_list(None)
        stored = [document for document in found if document["topic"] == topic]
        if new := await _not_recalled(state, stored):
            # By its ids alone, which have an index; `topic` is part of what a sharded database is spread by.
            bare = {"$set": {"payload": b"", "properties": recalled_mark(by)}, "$unset": {"rows": ""}}
            await bulk_write(state.collections.store, [UpdateMany({"mid": {"$in": new}, "topic": {"$eq": topic}}, bare)])
        cleared = {"$set": {"gone": 1, "gone_at": now, "payload": b"", "properties": b""}}
        await bulk_write(state.collections.retained, [UpdateMany({"_id": topic, "mid": {"$in": some}}, cleared)])
        kept = [document for document in stored if document.get("keep")]
        await write_state(state, [_mark(document, by, version, now) for document in kept], version)


async def _not_recalled(state: State, stored: Sequence[Raw]) -> list[int]:
    """The ids of those that have their content. A mark beside a payload is the publisher's own, and says nothing."""
    marked = [d["mid"] for d in stored if bytes(d.get("properties", b"")).startswith(RECALLED_MARK)]
    full = {document["mid"] async for document in whole(state, marked) if document["payload"]}
    return [d["mid"] for d in stored if d["mid"] not in marked or d["mid"] in full]


def _mark(document: Raw, by: int, version: int, now: int) -> Write:
    bare = message_of({**document, "payload": b""}).without_content(by)
    fields = retained_document(bare, bare.seq, bare.time, version, now)
    return Write("retained", "set", bare.topic, {**fields, "properties": b""})
