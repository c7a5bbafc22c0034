"""The end of serving alone: brokers of versions before this one hold a lease on the database, and others wait for it.

Serving alone and serving shared exclude each other. A lease that is renewed is left alone; one that nobody renews, or that was
given back, becomes nobody's for ever. The broker that had it last then stands among the nodes: as one that has left, or as one
that is dead, so that they complete what it left half done. Every step may be made again, by several at once.
"""

from __future__ import annotations

import asyncio
import logging
import time

from storage.cluster import DEAD, FEATURES, GONE
from storage.errors import StorageInUse
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.documents import Collections, Raw
from storage.mongo.node import node_key
from storage.mongo.process import has_ended
from storage.records import NEVER

log = logging.getLogger(__name__)

_LEASE = "serving"
_SHARED = "many nodes"
"""The owner of a lease that nobody gets any more."""
_FOR_EVER = 1 << 50


async def end_serving_alone(collections: Collections, database: str) -> None:
    """Returns once no broker can serve the database alone any more. Raises `StorageInUse` where one does."""
    record = await _ended(collections, database)
    if record is None or not record["token"]:
        return
    token, settled = record["token"], bool(record["settled"])
    if not settled:
        for connected in ({"expiry": {"$lt": NEVER}}, {"will": {"$ne": None}}):
            with storage_errors(opening=True):
                query = {"expires_at": 0, "will_at": 0, "node": {"$exists": False}, **connected}
                await collections.devices.update_many(query, {"$set": {"node": token}})
    if await inserted(collections.nodes, _former(record, settled=settled), opening=True):
        log.info("database %r was served by one broker at a time, and is open for many nodes now", database)


def _former(record: Raw, *, settled: bool) -> Raw:
    """The broker that had the lease last, as a node."""
    return {
        "_id": node_key(record["token"]),
        "number": 0,
        "token": record["token"],
        "name": record["former"] or "a broker of an earlier version",
        "process": "",
        "state": GONE if settled else DEAD,
        "beat": 0,
        "seen": 0,
        "done": record["done"],
        "routes": 0,
        "sessions": 0,
        "features": FEATURES,
        "started": 0,
        "ended": 0,
        "asked": "",
        "settings": "{}",
    }


async def _ended(collections: Collections, database: str) -> Raw | None:
    """The lease as it was left, which nobody gets any more; None where there never was one."""
    mark, since, began, renewed = (-1, -1), 0.0, time.monotonic(), False
    while True:
        with storage_errors(opening=True):
            record = await collections.lease.find_one({"_id": _LEASE})
        if record is None or record["owner"] == _SHARED:
            return record
        now, wait = time.monotonic(), record["ttl"] / 1000
        seen = (record["token"], record["beat"])
        if seen != mark:
            renewed = since > 0
            mark, since = seen, now
        silent = wait / 4 if has_ended(record.get("process", "")) else wait
        if not record["owner"] or now - since >= silent:
            await _take(collections, record)
        elif renewed and now - began >= wait:
            raise StorageInUse(
                f"database {database!r} is being served by {record['owner']}, a broker of an earlier version, which serves"
                " alone: stop it first"
            )
        else:
            await asyncio.sleep(min(wait / 8, 0.5))


async def _take(collections: Collections, record: Raw) -> None:
    """A broker that slept then finds that the lease has another owner; its token stays that of what it wrote."""
    settled = not record["owner"] and (not record["token"] or record.get("settled"))
    changes = {"owner": _SHARED, "former": record["owner"], "ttl": _FOR_EVER, "settled": int(bool(settled))}
    same = {"_id": _LEASE, "token": record["token"], "beat": record["beat"], "owner": record["owner"]}
    with storage_errors(opening=True):
        await collections.lease.update_one(same, {"$set": changes, "$inc": {"beat": 1}})
