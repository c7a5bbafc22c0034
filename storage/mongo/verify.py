"""Checking a MongoDB database, and mending it.

It is exported into a SQLite file without the payloads, which is looked at as any other. So what is found is what an export, and
a broker, would meet; documents that neither reads are not looked at. Each mend is one write that can be made again: MongoDB has
no step for all of them, so a crash leaves some faults mended and the others as they were.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pymongo import UpdateOne

from storage.cluster import UP, number_of
from storage.errors import StorageInUse
from storage.mongo.codec import device_id, message_document, subscription_id
from storage.mongo.connection import Address, Connection, storage_errors
from storage.mongo.documents import Collections, Raw, pair_key, timeline_key
from storage.mongo.dump import MongoSource
from storage.packing import pack_inflight, unpack_inflight
from storage.records import DeviceKey, Message
from storage.sqlite.damage import LARGEST_GAP, damages
from storage.sqlite.fill import SqliteTarget
from storage.sqlite.schema import VERSION
from storage.transfer import Record
from storage.verify import Damage, Finding, Report

Rows = list[tuple[Any, ...]]


class MongoVerifier:
    """A `storage.verify.Verifier`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._address = Address.parse(url)

    async def check(self, report: Report) -> list[Finding]:
        """See `storage.verify.Verifier`."""
        return [damage.finding(rows) for damage, rows in await self._found(report)]

    async def repair(self, report: Report) -> list[Finding]:
        """See `storage.verify.Verifier`."""
        connection = Connection.make(self._address)
        try:
            c = connection.bound.collections
            with storage_errors(opening=True):
                if await c.nodes.find_one({"state": UP}) is not None:
                    raise StorageInUse(f"database {self._address.database!r} is served by a broker: stop it first")
            found = await self._found(report)
            for damage, rows in found:
                report(f"mending {damage.what}")
                with storage_errors():
                    await _mend(c, damage.kind, rows)
            return [damage.finding(rows) for damage, rows in found]
        finally:
            await connection.close()

    async def _found(self, report: Report) -> list[tuple[Damage, Rows]]:
        with tempfile.TemporaryDirectory(prefix="tideline-verify-") as folder:
            path = Path(folder) / "copy.db"
            report("a copy of what is stored, without the payloads")
            async with MongoSource(self._url) as source, SqliteTarget(path) as target:
                async for records in source.records():
                    await target.write([_bare(record) for record in records])
                await target.finish()
            found = []
            with closing(sqlite3.connect(path)) as copy:
                for damage in damages(VERSION):
                    report(damage.what)
                    if rows := copy.execute(damage.query).fetchall():
                        found.append((damage, rows))
            return found


def _bare(record: Record) -> Record:
    if record[0] == "row":
        return (*record[:-1], b"")
    return (*record[:-2], b"", b"") if record[0] in ("message", "retained") else record


async def _mend(c: Collections, kind: str, rows: Rows) -> None:
    if kind == "conversation-gap":
        for topic, first, last in rows:
            await _fill_conversation(c, topic, first, last)
    elif kind == "inbox-gap":
        for user, first, last in rows:
            await _fill_inbox(c, user, first, last)
    elif kind == "dangling":
        await _all(c.sync, [UpdateOne({"_id": timeline_key(user, seq)}, {"$set": {"mid": 0}}) for user, seq, _ in rows])
    elif kind == "offset":
        for user, client, _, _, head in rows:
            await _move_back(c, device_id(DeviceKey(user, client)), head)
    elif kind == "since":
        keys = [(subscription_id(DeviceKey(user, client), name), head) for user, client, name, _, head in rows]
        await _all(c.subscriptions, [UpdateOne({"_id": key}, {"$set": {"since": head}}) for key, head in keys])
    elif kind == "retained":
        await _all(c.retained, [UpdateOne({"_id": topic}, {"$set": {"seq": 0}}) for topic, _, _ in rows])
    elif kind == "position":
        keys = [(pair_key(user, topic), head) for user, topic, _, head in rows]
        await _all(c.positions, [UpdateOne({"_id": key}, {"$set": {"seq": head}}) for key, head in keys])


async def _all(collection: Any, writes: Sequence[UpdateOne]) -> None:
    await collection.bulk_write(list(writes))


async def _fill_conversation(c: Collections, topic: str, first: int, last: int) -> None:
    if last - first >= LARGEST_GAP:
        return
    following = await c.store.find_one({"_id": timeline_key(topic, last + 1)})
    before = await c.store.find_one({"_id": timeline_key(topic, first - 1)}) or following
    if before is None:
        return
    id = before["mid"] if before is not following else before["mid"] - (last - first) - 2
    for seq in range(first, last + 1):
        id += 1
        while await c.store.find_one({"mid": {"$eq": id}}) is not None:
            id += 1
        empty = Message(id, topic, "b/tideline", "", before["time"], 0, b"", expires=1)
        document = message_document(empty, seq, before["time"], 0)
        await _put(c.store, {"_id": timeline_key(topic, seq), "writer": number_of(id), **document})


async def _fill_inbox(c: Collections, user: str, first: int, last: int) -> None:
    if last - first < LARGEST_GAP:
        following = await c.sync.find_one({"_id": timeline_key(user, last + 1)})
        time = following["time"] if following is not None else 0
        for seq in range(first, last + 1):
            entry = {"user": user, "seq": seq, "mid": 0, "size": 0, "time": time}
            await _put(c.sync, {"_id": timeline_key(user, seq), **entry})


async def _put(collection: Any, document: Raw) -> None:
    await collection.update_one({"_id": document["_id"]}, {"$setOnInsert": document}, upsert=True)


async def _move_back(c: Collections, key: str, head: int) -> None:
    found = await c.devices.find_one({"_id": key})
    if found is None:
        return
    offset = min(found["offset"], head)
    cursor = max(offset, min(found["cursor"], head))
    inflight = [e for e in unpack_inflight(found["inflight"]) if e.timeline or offset < e.seq <= cursor]
    fields = {"offset": offset, "cursor": cursor, "inflight": pack_inflight(inflight)}
    await c.devices.update_one({"_id": key}, {"$set": fields})
