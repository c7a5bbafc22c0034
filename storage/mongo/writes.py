"""The writes that commits and recovery make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pymongo import DeleteMany, DeleteOne, UpdateOne
from pymongo.errors import BulkWriteError

from storage.mongo.connection import DUPLICATE_KEY, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.state import State, batches
from storage.mongo.view import Write

CHUNK = 1000
"""Documents of one insert: encoding them holds the event loop for about 10 ms."""


async def write_state(state: State, writes: Sequence[Write], version: int) -> None:
    """Make the writes, in any order. One that a later version was faster than changes nothing."""
    by_collection: dict[str, list[Any]] = {}
    for write in writes:
        by_collection.setdefault(write.collection, []).append(_operation(write, version, fenced=not state.shared))
    collections = [(getattr(state.collections, name), operations) for name, operations in by_collection.items()]
    results = await asyncio.gather(*(bulk_write(c, operations) for c, operations in collections), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _operation(write: Write, version: int, *, fenced: bool) -> Any:
    mine: Raw = {"_id": write.id, "v": {"$lt": version}} if fenced else {"_id": write.id}
    match write.kind:
        case "set":
            return UpdateOne(mine, {"$set": {**write.fields, "v": version}}, upsert=True)
        case "change":
            return UpdateOne(mine, {"$set": {**write.fields, "v": version}})
        case "remove":
            return DeleteOne({**mine, **write.fields})
        case "sweep":
            return DeleteMany({**write.fields, "generation": {"$lt": version}})
        case "register":
            return UpdateOne({"_id": write.id}, {"$setOnInsert": write.fields}, upsert=True)
        case _:
            return UpdateOne({"_id": write.id}, {"$max": write.fields}, upsert=True)


async def bulk_write(collection: Collection, operations: list[Any]) -> None:
    """Make the writes in any order; a guarded upsert that finds its key taken has nothing to do."""
    for batch in batches(operations, CHUNK):
        with storage_errors():
            try:
                await collection.bulk_write(batch, ordered=False)
            except BulkWriteError as error:
                # An upsert finds its key taken where the guard says that a later write, or this one, was there before.
                if error.details["writeConcernErrors"] or any(e["code"] != DUPLICATE_KEY for e in error.details["writeErrors"]):
                    raise


async def insert(collection: Collection, documents: list[Raw]) -> tuple[int, int]:
    """Insert in order; (how many are durable, code of the error at the next one, or 0). Raises where that is not known."""
    with storage_errors():
        try:
            await collection.insert_many(documents, ordered=True)
        except BulkWriteError as error:
            if error.details["writeConcernErrors"] or not error.details["writeErrors"]:
                raise
            first = error.details["writeErrors"][0]
            return first["index"], first["code"] or -1
    return len(documents), 0
