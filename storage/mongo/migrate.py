"""Bringing a database of an earlier schema to this one. Each step can be made again; no node of the earlier one is at work."""

from __future__ import annotations

from storage.errors import StorageUnusable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Collections
from storage.restored import new_epoch

IMPORT = "import"
"""The document of ``meta`` that is there while a database is being filled."""
SCHEMA = 2
"""1: one writer; ids of node 0 alone, and no guards of several."""


async def refuse_unfinished_import(meta: Collection, database: str) -> None:
    """Raise `StorageUnusable` where an import has begun that did not end: what is there is a part of it."""
    with storage_errors(opening=True):
        if await meta.find_one({"_id": IMPORT}) is not None:
            raise StorageUnusable(
                f"database {database!r}: an import into it has begun and not ended; run tideline import again"
            )


async def migrate(collections: Collections, schema: int) -> None:
    """From ``schema``, 1 or later, or 0 for an empty database, to `SCHEMA`."""
    with storage_errors(opening=True):
        if schema == 1:
            for guarded in (collections.devices, collections.subscriptions):
                await guarded.update_many({"revision": {"$exists": False}}, {"$set": {"revision": 0}})
            await collections.store.update_many({"writer": {"$exists": False}}, {"$set": {"writer": 0}})
        made = {"epoch": new_epoch().id, "restored": 0}
        await collections.meta.update_one({"_id": "epoch"}, {"$setOnInsert": made}, upsert=True)
        await collections.meta.update_one({"_id": "schema"}, {"$set": {"version": SCHEMA}}, upsert=True)
