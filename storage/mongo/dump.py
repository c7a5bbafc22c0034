"""Everything in a MongoDB database as records, beside the nodes that serve it.

There is no one moment, on no kind of server; it is read in such an order that nothing is torn:

1. up to which id each node's messages are in all their inboxes;
2. devices: so no offset, and no filter's place, is past the inbox that is read after it;
3. inboxes, each up to where it ends by then: what an entry points to is stored before it is there;
4. conversations, each up to its end. A message that came after its inboxes were read, or whose node has not finished it yet,
   gets its entries here, as who takes over from a dead node does it.

So whatever was acknowledged before it began is there, in order, and whatever came meanwhile is there whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

from storage.cluster import number_of
from storage.errors import NoDatabase, StorageUnusable
from storage.mongo.codec import kept_device, places_of, subscription
from storage.mongo.connection import Address, Connection, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.migrate import SCHEMA, refuse_unfinished_import
from storage.mongo.reads import KEPT, pages
from storage.mongo.shared_inboxes import division_of
from storage.records import JobState, Token
from storage.restored import unmarked
from storage.transfer import About, Record

_PAGE = 1000
_COUNTED = ("store", "sync", "devices", "retained", "members", "conversations", "users", "tokens", "rows")


class MongoSource:
    """A `storage.transfer.Source`."""

    def __init__(self, url: str) -> None:
        self._address = Address.parse(url)
        self._connection: Connection | None = None
        self._heads: dict[str, int] = {}
        self._last: dict[int, int] = {}
        self._owed: list[Record] = []
        self.lost: list[str] = []

    async def __aenter__(self) -> Self:
        self._connection = connection = Connection.make(self._address)
        self._c = connection.bound.collections
        try:
            with storage_errors(opening=True):
                schema = await self._c.meta.find_one({"_id": "schema"})
            await refuse_unfinished_import(self._c.meta, self._address.database)
            if schema is None:
                raise NoDatabase(f"database {self._address.database!r}: there is nothing of tideline's in it")
            if schema["version"] != SCHEMA:
                raise StorageUnusable(
                    f"database {self._address.database!r} has schema {schema['version']}, this version of tideline exports"
                    f" {SCHEMA}: a broker of this version that starts on it brings it there"
                )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def about(self) -> About:
        """See `storage.transfer.Source`."""
        with storage_errors():
            counts = [await getattr(self._c, name).estimated_document_count() for name in _COUNTED]
            epoch = await self._c.meta.find_one({"_id": "epoch"})
        return About("mongodb", epoch["epoch"] if epoch else "", sum(counts), time.time_ns() // 1_000_000)

    async def records(self) -> AsyncIterator[list[Record]]:
        """See `storage.transfer.Source`."""
        done = await self._finished()
        groups = await self._group_offsets()
        for part in (self._devices(groups), self._small(), self._participants(), self._retained(), self._inboxes()):
            async for page in part:
                yield page
        async for page in self._conversations(done):
            yield page
        yield self._owed
        await self._note_heads()
        yield [("id", number, id) for number, id in sorted(self._last.items())]

    # --- step by step ------------------------------------------------------------------------------------------------

    async def _finished(self) -> dict[int, int]:
        """By node number: every message with an id up to this one has all its entries."""
        done: dict[int, int] = {}
        with storage_errors():
            async for node in self._c.nodes.find({}, {"number": 1, "token": 1, "done": 1}).sort("token", 1):
                done[node["number"]] = int(node["done"])
        return done

    async def _group_offsets(self) -> dict[str, int]:
        """Up to where a shared subscription's inbox is done, where nodes divide it: all behind it is given out again."""
        with storage_errors():
            return {document["_id"]: division_of(document).offset async for document in self._c.divisions.find()}

    async def _devices(self, groups: dict[str, int]) -> AsyncIterator[list[Record]]:
        async for page in pages(self._c.devices, KEPT):
            filters: dict[tuple[str, str, int], list[list[Any]]] = {}
            between = {"$gt": page[0]["_id"] + "\0", "$lt": page[-1]["_id"] + "\1"}
            with storage_errors():
                async for document in self._c.subscriptions.find({"_id": between}):
                    if not document.get("gone"):
                        one = subscription(document)
                        owner = document["user"], document["client"], document["generation"]
                        filters.setdefault(owner, []).append([one.filter, one.options, one.identifier, one.since])
            yield [_device(document, filters, groups) for document in page]

    async def _small(self) -> AsyncIterator[list[Record]]:
        """Settings, rows, tokens, jobs and idempotency keys."""
        async for page in pages(self._c.settings, {}):
            yield [("setting", d["kind"], d["name"], bytes(d["value"])) for d in page]
        async for page in pages(self._c.rows, KEPT):
            yield [("row", d["table"], d["part"], d["name"], d["revision"], bytes(d["value"])) for d in page]
        async for page in pages(self._c.tokens, {}):
            yield [("token", d["_id"], *(d[name] for name in Token._fields[1:])) for d in page]
        async for page in pages(self._c.jobs, {}):
            yield [("job", d["_id"], *(d[name] for name in JobState._fields[1:])) for d in page]
        async for page in pages(self._c.idempotency, {"done": 1}):
            fields = ("mid", "seq", "until")
            yield [("once", *d["_id"].split("\0", 1), bytes(d["digest"]), *(d[name] for name in fields)) for d in page]

    async def _participants(self) -> AsyncIterator[list[Record]]:
        """Who takes part, each with its position; then the positions of who does not."""
        async for page in pages(self._c.members, {}):
            positions = await _by_key(self._c.positions, page)
            yield [("participant", d["user"], d["topic"], 1, positions.get(d["_id"], {}).get("seq", 0)) for d in page]
        async for page in pages(self._c.positions, {}):
            members = await _by_key(self._c.members, page)
            yield [("participant", d["user"], d["topic"], 0, d["seq"]) for d in page if d["_id"] not in members]

    async def _retained(self) -> AsyncIterator[list[Record]]:
        async for page in pages(self._c.retained, KEPT):
            self._note(d["mid"] for d in page)
            yield [_message("retained", d) for d in page]

    async def _inboxes(self) -> AsyncIterator[list[Record]]:
        async for page in pages(self._c.users, {}):
            self._heads.update({d["_id"]: d["floor"] for d in page})
            yield [("inbox", d["_id"], d["floor"]) for d in page]
        for user in list(self._heads):
            async for floor, entries in _timeline(self._c.sync, self._c.users, "user", user, self._heads[user]):
                if floor is not None:
                    yield [("inbox", user, floor)]
                yield [("entry", user, d["seq"], d["mid"], d.get("target", ""), d["time"], d["size"]) for d in entries]
                self._heads[user] = entries[-1]["seq"]

    async def _conversations(self, done: dict[int, int]) -> AsyncIterator[list[Record]]:
        async for page in pages(self._c.conversations, {}):
            for conversation in page:
                topic = conversation["_id"]
                yield [("conversation", topic, conversation["floor"], conversation["time"])]
                async for floor, messages in _timeline(
                    self._c.store, self._c.conversations, "topic", topic, conversation["floor"]
                ):
                    if floor is not None:
                        yield [("conversation", topic, floor, conversation["time"])]
                    self._note(d["mid"] for d in messages)
                    for document in messages:
                        if document.get("recipients") and document["mid"] > done.get(number_of(document["mid"]), 0):
                            await self._finish(document)
                    yield [_message("message", d) for d in messages]

    async def _finish(self, document: Raw) -> None:
        """Give a message the entries that were not read with their inboxes, or are not there yet."""
        for user, place in zip(document["recipients"], places_of(document), strict=True):
            head = self._heads.get(user, 0)
            if place <= head:
                query = {"user": {"$eq": user}, "seq": {"$gte": place, "$lte": head}, "mid": document["mid"]}
                with storage_errors():
                    if await self._c.sync.find_one(query, {"_id": 1}) is not None:
                        continue
            if user not in self._heads:
                self._owed.append(("inbox", user, 0))
            self._heads[user] = head + 1
            entry = head + 1, document["mid"], "", document["time"], len(document["payload"])
            self._owed.append(("entry", user, *entry))

    # --- ids ---------------------------------------------------------------------------------------------------------

    def _note(self, ids: Iterable[int]) -> None:
        for id in ids:
            number = number_of(id)
            self._last[number] = max(id, self._last.get(number, 0))

    async def _note_heads(self) -> None:
        with storage_errors():
            async for head in self._c.meta.find({"last_id": {"$gt": 0}}):
                self._note([head["last_id"]])
            async for node in self._c.nodes.find({}, {"done": 1}):
                if node["done"]:
                    self._note([node["done"]])


async def _timeline(
    entries: Collection, registry: Collection, name: str, value: str, after: int
) -> AsyncIterator[tuple[int | None, list[Raw]]]:
    """Pages of a timeline up to its end; with a floor where what comes before it was removed meanwhile."""
    while True:
        with storage_errors():
            cursor = entries.find({name: {"$eq": value}, "seq": {"$gt": after}}).sort("seq", 1).limit(_PAGE)
            page = await cursor.to_list(None)
        if not page:
            return
        floor = None
        if page[0]["seq"] != after + 1 or page[-1]["seq"] - page[0]["seq"] != len(page) - 1:
            with storage_errors():
                found = await registry.find_one({"_id": value})
            if found is not None and found["floor"] > after:  # else it is damage, which is found by who checks it
                floor = after = found["floor"]
                page = [document for document in page if document["seq"] > floor]
        if page:
            yield floor, page
            after = page[-1]["seq"]


async def _by_key(collection: Collection, like: list[Raw]) -> dict[str, Raw]:
    with storage_errors():
        found = await collection.find({"_id": {"$in": [document["_id"] for document in like]}}).to_list(None)
    return {document["_id"]: document for document in found}


def _device(document: Raw, filters: dict[tuple[str, str, int], list[list[Any]]], groups: dict[str, int]) -> Record:
    kept = kept_device({**document, "epoch": unmarked(document["epoch"])})
    d = kept.device
    offset = max(d.offset, groups.get(d.key.user, 0))
    inflight = [[*entry] for entry in d.inflight]
    subscriptions = sorted(filters.get((*d.key, kept.generation), []))
    place = d.expiry, d.expires_at, d.created_at, offset, max(offset, d.cursor)
    will = None if d.will is None else bytes(d.will)
    return ("device", *d.key, d.epoch, *place, inflight, subscriptions, sorted(d.received), will, d.will_at)


def _message(kind: str, d: Raw) -> Record:
    flags = d["qos"], int(bool(d.get("retain"))), d.get("expires", 0)
    body = bytes(d.get("properties", b"")), bytes(d["payload"])
    return (kind, d["topic"], d["seq"], d["mid"], d["user"], d["device"], d["time"], *flags, *body)
