"""A MongoDB database made of records.

A mark says that it is being filled, from before the first document until all are there. Whoever finds it refuses the database;
the next import removes what is there, and begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Self

from storage.cluster import GONE, UP, Node, number_of
from storage.errors import StorageInUse, StorageUnusable
from storage.mongo.connection import Address, Connection, inserted, is_router, storage_errors
from storage.mongo.documents import Collection, Raw, last_id_key
from storage.mongo.fill_documents import Documents
from storage.mongo.migrate import IMPORT, SCHEMA
from storage.mongo.node import node_document
from storage.mongo.process import has_ended, this_process
from storage.mongo.writes import CHUNK, insert_some
from storage.restored import new_epoch
from storage.transfer import Record

_HELD = ("store", "sync", "devices", "retained", "members", "positions", "tokens", "settings", "rows", "conversations", "users")
"""A database without any of these holds nothing that anybody would miss."""
_BYTES = 24 << 20
"""Of the payloads of one insert: a command may have 48 MB."""


class MongoTarget:
    """A `storage.transfer.Target`.

    ``anew``: also where an import seems to be under way, on another machine, that is known to have ended.
    """

    def __init__(self, url: str, *, anew: bool = False) -> None:
        self._address = Address.parse(url)
        self._anew = anew
        self._connection: Connection | None = None
        self._last: dict[int, int] = {}
        self._now = time.time_ns() // 1_000_000
        self._documents = Documents(self._now)

    async def __aenter__(self) -> Self:
        self._connection = connection = Connection.make(self._address)
        self._c = connection.bound.collections
        try:
            with storage_errors(opening=True):
                hello = await connection.client.admin.command("hello")
            await self._begin()
            with storage_errors(opening=True):
                await connection.bound.ensure_indexes(sharded=is_router(hello))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _begin(self) -> None:
        name, meta = self._address.database, self._c.meta
        with storage_errors(opening=True):
            under_way = await meta.find_one({"_id": IMPORT})
        if under_way is None:
            await self._refuse_what_holds_something()
            if not await inserted(meta, {"_id": IMPORT, "process": this_process()}, opening=True):
                raise StorageInUse(f"database {name!r}: another import has just begun")
        elif not (self._anew or has_ended(under_way.get("process", ""))):
            raise StorageInUse(f"database {name!r}: an import is under way; if it ended, on another machine, say --anew")
        with storage_errors(opening=True):
            await meta.update_one({"_id": IMPORT}, {"$set": {"process": this_process()}})
            for collection in self._c:
                await collection.delete_many({"_id": {"$ne": IMPORT}} if collection is meta else {})

    async def _refuse_what_holds_something(self) -> None:
        name = self._address.database
        with storage_errors(opening=True):
            if await self._c.nodes.find_one({"state": UP}) is not None:
                raise StorageInUse(f"database {name!r} is served by a broker: stop it first")
            full = [held for held in _HELD if await getattr(self._c, held).find_one() is not None]
        if full:
            raise StorageUnusable(f"database {name!r} is not empty (it has {', '.join(full)}): import into another one")

    async def write(self, records: Sequence[Record]) -> None:
        """See `storage.transfer.Target`."""
        for kind, some in groupby(records, lambda record: record[0]):
            await self._write(kind, [record[1:] for record in some])

    async def _write(self, kind: str, rows: list[tuple[Any, ...]]) -> None:
        if kind in ("inbox", "conversation"):
            await self._timelines(kind, rows)
            return
        if kind == "id":
            self._note(row[1] for row in rows)
            return
        if kind in ("message", "retained"):
            self._note(row[2] for row in rows)
        made: dict[str, list[Raw]] = {}
        for row in rows:
            for name, document in self._documents.of(kind, row):
                made.setdefault(name, []).append(document)
        for name, documents in made.items():
            await self._insert(getattr(self._c, name), documents)

    async def _insert(self, collection: Collection, documents: list[Raw]) -> None:
        some: list[Raw] = []
        size = 0
        for document in documents:
            size += len(document.get("payload") or document.get("value") or b"")
            some.append(document)
            if size > _BYTES or len(some) == CHUNK:
                await _insert_all(collection, some)
                some, size = [], 0
        if some:
            await _insert_all(collection, some)

    async def _timelines(self, kind: str, rows: list[tuple[Any, ...]]) -> None:
        entries, registry, name = (
            (self._c.sync, self._c.users, "user") if kind == "inbox" else (self._c.store, self._c.conversations, "topic")
        )
        documents = [{"_id": row[0], "floor": row[1], "time": row[2] if kind == "conversation" else 0} for row in rows]
        with storage_errors():
            found = await registry.find({"_id": {"$in": [d["_id"] for d in documents]}}, {"_id": 1}).to_list(None)
        again = {document["_id"] for document in found}
        await self._insert(registry, [document for document in documents if document["_id"] not in again])
        for document in documents:
            if document["_id"] in again:  # retention went on while it was exported
                with storage_errors():
                    await registry.replace_one({"_id": document["_id"]}, document)
                    await entries.delete_many({name: {"$eq": document["_id"]}, "seq": {"$lte": document["floor"]}})

    def _note(self, ids: Iterable[int]) -> None:
        for id in ids:
            self._last[number_of(id)] = max(id, self._last.get(number_of(id), 0))

    async def finish(self) -> None:
        """See `storage.transfer.Target`. Each number whose ids there are had a node that has left: its messages are a tail."""
        c = self._c
        epoch = new_epoch(self._now)
        with storage_errors():
            for token, (number, last) in enumerate(sorted(self._last.items()), start=1):
                await c.meta.insert_one({"_id": last_id_key(number), "last_id": last})
                node = Node(number, token, f"import-{number}", seen=self._now, done=last, started=self._now)
                await c.nodes.insert_one({**node_document(node), "state": GONE, "process": "", "settings": "{}"})
            await c.meta.insert_one({"_id": "epoch", "epoch": epoch.id, "restored": epoch.restored})
            await c.meta.insert_one({"_id": "schema", "version": SCHEMA})
            await c.meta.delete_one({"_id": IMPORT})


async def _insert_all(collection: Collection, documents: list[Raw]) -> None:
    written = await insert_some(collection, documents)
    if missing := [document["_id"] for n, document in enumerate(documents) if n not in written]:
        raise StorageUnusable(f"there are two records for {collection.name} {missing[0]!r}")
