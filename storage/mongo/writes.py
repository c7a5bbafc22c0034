"""The writes that commits, and those who finish them, make; each can be made again, and changes nothing where it comes late.

- *Timelines*: the key is (timeline, sequence), and a key that is taken stays as it is.
- *Devices*: a write names the revision that it saw. One that did not find it is told so: somebody else has written.
- *Subscriptions* have their device's revision, a retained message its conversation's sequence: the higher one stays. A removal
  leaves a mark, so that what comes behind it finds it.

No upsert has an ``$or``: nx-27017 does nothing with one, and says that it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bson import encode
from pymongo import DeleteMany, DeleteOne, UpdateOne
from pymongo.errors import BulkWriteError

from storage.errors import StorageUnavailable
from storage.mongo.commands import Encoded, insert_command
from storage.mongo.connection import DUPLICATE_KEY, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.state import State, batches
from storage.mongo.view import Write

CHUNK = 1000
"""Documents of one insert."""
CHUNK_BYTES = 8 << 20
"""Bytes of those that go in one insert beside others: half of what the driver sends at once."""


async def write_state(state: State, writes: Sequence[Write], version: int) -> None:
    """Make writes of anything but devices, in any order."""
    by_collection: dict[str, list[Any]] = {}
    for write in writes:
        by_collection.setdefault(write.collection, []).extend(_operations(write, version))
    collections = [(getattr(state.collections, name), operations) for name, operations in by_collection.items()]
    results = await asyncio.gather(*(bulk_write(c, operations) for c, operations in collections), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _operations(write: Write, version: int) -> list[Any]:
    mine: Raw = {"_id": write.id}
    match write.collection, write.kind:
        case "retained", "set":
            return _retain(mine, write.fields)
        case "retained", "remove":
            mark = {"$set": {"gone": 1, "gone_at": write.fields["gone_at"], "payload": b""}}
            return [UpdateOne({**mine, "mid": write.fields["mid"]}, mark)]
        case "subscriptions", "set":
            fields = {"$set": {**write.fields, "revision": write.revision, "v": version}}
            return [UpdateOne({**mine, "revision": {"$lt": write.revision}}, fields, upsert=True)]
        case "claims", "release":
            return [UpdateOne({**mine, **write.fields}, {"$set": {"released": 1}})]
        case "idempotency", "set":
            return [UpdateOne({**mine, "mid": write.fields["mid"]}, {"$set": {**write.fields, "v": version}})]
        case _, "set":
            return [UpdateOne(mine, {"$set": {**write.fields, "v": version}}, upsert=True)]
        case _, "remove":
            return [DeleteOne({**mine, **write.fields})]
        case _, "sweep":
            return [DeleteMany(write.fields)]
        case _, "register":
            return [UpdateOne(mine, {"$setOnInsert": write.fields}, upsert=True)]
        case _:
            return [UpdateOne(mine, {"$max": write.fields}, upsert=True)]


def _retain(mine: Raw, fields: Raw) -> list[Any]:
    """In any order: put it where there is none, and in the place of an earlier one; ids decide where one has no sequence."""
    seq, mid = fields["seq"], {"$lt": fields["mid"]}
    earlier: list[Raw] = [{"seq": {"$gt": 0, "$lt": seq}}, {"seq": 0, "mid": mid}] if seq else [{"mid": mid}]
    replace = [UpdateOne({**mine, **one}, {"$set": fields}) for one in earlier]
    return [UpdateOne(mine, {"$setOnInsert": fields}, upsert=True), *replace]


async def bulk_write(collection: Collection, operations: list[Any]) -> int:
    """Make the writes in any order; how many took effect. A guarded upsert that finds its key taken has none."""
    done = 0
    result: Mapping[str, Any]
    for batch in batches(operations, CHUNK):
        with storage_errors():
            try:
                result = (await collection.bulk_write(batch, ordered=False)).bulk_api_result
            except BulkWriteError as error:
                # An upsert finds its key taken where the guard says that a later write, or this one, was there before.
                result = error.details
                if result["writeConcernErrors"] or any(e["code"] != DUPLICATE_KEY for e in result["writeErrors"]):
                    raise
        done += result["nMatched"] + result["nUpserted"] + result["nRemoved"]
    return done


async def write_devices(state: State, writes: Sequence[Write], version: int) -> set[str]:
    """Write devices; the ``_id`` of those that somebody else has written since they were read, which are as they were."""
    operations = []
    for write in writes:
        query = {"_id": write.id, "revision": write.seen if write.seen >= 0 else {"$lt": -1}}
        fields = {**write.fields, "revision": write.revision, "v": version}
        operations.append(UpdateOne(query, {"$set": fields}, upsert=write.seen < 0))
    if await bulk_write(state.collections.devices, operations) == len(writes):
        return set()
    missed = {write.id for write in writes}
    for batch in batches(list(missed), CHUNK):
        with storage_errors():
            found = await state.collections.devices.find({"_id": {"$in": batch}}, {"v": 1}).to_list(None)
        missed -= {document["_id"] for document in found if document["v"] == version}
    return missed


async def insert_some(collection: Collection, documents: Sequence[Raw]) -> set[int]:
    """Insert in any order; the places of those that are durable. The others' keys are taken."""
    written: set[int] = set()
    start = 0
    for some in _encoded(documents):
        found = await insert_chunk(collection, some, ordered=False)
        written.update(start + place for place in found)
        start += some.count
    return written


def _encoded(documents: Iterable[Raw]) -> Iterator[Encoded]:
    some: list[bytes] = []
    size = 0
    for document in documents:
        raw = encode(document)
        if some and (len(some) >= CHUNK or size + len(raw) > CHUNK_BYTES):
            yield Encoded(b"".join(some), len(some))
            some, size = [], 0
        some.append(raw)
        size += len(raw)
    if some:
        yield Encoded(b"".join(some), len(some))


async def insert_chunk(collection: Collection, documents: Encoded, *, ordered: bool) -> Sequence[int]:
    """Insert; the places of those that are durable. The others' keys are taken, or come behind one whose key is."""
    failed, code = await _insert(collection, documents, ordered=ordered)
    if code not in (0, DUPLICATE_KEY):
        raise StorageUnavailable(f"mongodb: inserting into {collection.name} failed with code {code}")
    every = range(documents.count)
    return [place for place in every if place not in failed] if failed else every


async def insert(collection: Collection, documents: Encoded) -> tuple[int, int]:
    """Insert in order; (how many are durable, code of the error at the next one, or 0). Raises where that is not known."""
    failed, code = await _insert(collection, documents, ordered=True)
    return documents.count - len(failed), code


async def _insert(collection: Collection, documents: Encoded, *, ordered: bool) -> tuple[set[int], int]:
    errors = await insert_command(collection, documents, ordered=ordered)
    if not errors:
        return set(), 0
    failed = set(range(errors[0]["index"], documents.count)) if ordered else {error["index"] for error in errors}
    return failed, next((error["code"] or -1 for error in errors if error["code"] != DUPLICATE_KEY), DUPLICATE_KEY)
