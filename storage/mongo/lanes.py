"""Lanes: for each receiver and sender a timeline that only the sender writes, from 1 on.

A sender writes one parcel after the other, so each lane is whole up to its end. A reader takes of each only what follows what
it has, as a look at many lanes may pass a place before its entry comes and then find the next one. What was given is removed
beside the next look; where that removal is lost, it is passed over. Where the database has change streams (a replica set), they
bring what others send; else a reader looks again and again, in pauses that grow while nothing comes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from pymongo import AsyncMongoClient, DeleteMany, WriteConcern

from storage.cluster import Parcel
from storage.ending import end
from storage.errors import StorageUnavailable
from storage.messages import Message
from storage.mongo.connection import inserted, is_router, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.lane_entries import Lane, entries_of, step
from storage.mongo.node import MongoNode
from storage.mongo.parcels import filled, unpack
from storage.mongo.writes import insert_some

log = logging.getLogger(__name__)

_SOON, _LATE = 0.005, 0.025
"""The shortest and the longest time from one look to the next, in seconds. A look costs as much whatever it brings: without the
shortest, many nodes would do little else."""
_ALONE = 0.1
"""The same where this node knows of no other. Who joins waits that long, once, for what it asks first."""
_RARELY = 1.0
"""The same where a change stream brings what there is; and between two attempts to open one."""
_PAGE, _PAGE_BYTES = 500, 16 << 20

ReadMessages = Callable[[Sequence[int]], Awaitable[list[Message]]]


class Lanes:
    """One node's lanes, out and in."""

    def __init__(self, collection: Collection, node: MongoNode, read_messages: ReadMessages) -> None:
        self._collection = collection
        self._removing = collection.with_options(write_concern=WriteConcern(w=1))  # a removal may be lost: see above
        self._node = node
        self._read_messages = read_messages
        self._turn = asyncio.Lock()
        self._sent: dict[int, int] = {}
        """By receiver: the last entry that is known to be there."""
        self._lanes: dict[int, Lane] = {}
        """By sender."""
        self._behind = 0
        """The sender behind whose lane the next look begins."""
        self._news = asyncio.Event()
        self._streaming = False
        """Whether a change stream brings what others send."""
        self._heard: list[Raw] = []
        """What it has brought, a page at most."""
        self._heard_bytes = 0
        self._unsure = True
        """Whether there may be more than that: then the next look is into the lanes."""
        self._stream: asyncio.Task[None] | None = None
        self._removal: asyncio.Task[None] | None = None
        self.alone = False
        """Whether this node, when it last looked, was the only one."""
        self._pause = _SOON
        self._looked = 0.0
        """When the last look began."""

    async def start(self, client: AsyncMongoClient[Raw]) -> None:
        """Find out whether there are change streams, and use them."""
        with storage_errors():
            hello = await client.admin.command("hello")
        if "setName" in hello or is_router(hello):
            self._stream = asyncio.create_task(self._listen(), name="mongodb lanes")

    async def stop(self) -> None:
        """Listen no more, and leave what is not removed yet."""
        await end([self._stream, self._removal])

    # --- out -------------------------------------------------------------------------------------------------------

    async def send(self, parcels: Mapping[int, Parcel]) -> None:
        """See `storage.cluster.Cluster`. What is sent again, as its outcome was not known, is there once."""
        async with self._turn:
            await self._node.confirm()
            lanes = {token: entries_of(parcel, self._node.number) for token, parcel in parcels.items()}
            documents = [
                self._document(receiver, self._sent.get(receiver, 0) + n, entry)
                for receiver, entries in lanes.items()
                for n, entry in enumerate(entries, 1)
            ]
            clashed = await self._insert(documents)
            for receiver, entries in lanes.items():
                if receiver in clashed:
                    await self._append(receiver, entries)
                else:
                    self._sent[receiver] = self._sent.get(receiver, 0) + len(entries)
        if self._node.token in lanes:
            self._news.set()

    def _document(self, receiver: int, seq: int, entry: Raw) -> Raw:
        sender = self._node.token
        key = f"{receiver:016d} {sender:016d} {seq:016d}"
        return {"_id": key, "receiver": receiver, "sender": sender, "seq": seq, **entry}

    async def _insert(self, documents: list[Raw]) -> set[int]:
        """Insert; the receivers in whose lanes a place was taken."""
        written = await insert_some(self._collection, documents)
        return {document["receiver"] for place, document in enumerate(documents) if place not in written}

    async def _append(self, receiver: int, entries: list[Raw]) -> None:
        """Append one by one, behind what an earlier attempt left; what that has written of these already stands for them."""
        seq = self._sent.get(receiver, 0)
        for entry in entries:
            while True:
                seq += 1
                document = self._document(receiver, seq, entry)
                if await inserted(self._collection, document):
                    break
                with storage_errors():
                    found = await self._collection.find_one({"_id": document["_id"], "receiver": receiver})
                if found is not None and all(found[name] == value for name, value in entry.items()):
                    break
        self._sent[receiver] = seq

    # --- in --------------------------------------------------------------------------------------------------------

    async def receive(self, wait: float) -> list[Parcel]:
        """See `storage.cluster.Cluster`. What was given before is removed meanwhile: no look waits for that."""
        await self._node.confirm()
        if self._removal is None or self._removal.done():
            self._removal = asyncio.create_task(self._remove(), name="removal from mongodb lanes")
        parcels = await self._next(time.monotonic() + wait)
        if not parcels:
            await asyncio.wait([self._removal])
        return parcels

    async def _next(self, deadline: float) -> list[Parcel]:
        while True:
            await asyncio.sleep(self._looked + _SOON - time.monotonic())
            self._news.clear()
            self._looked = time.monotonic()
            parcels = await (self._take_heard() if self._streaming and not self._unsure else self._look())
            left = deadline - time.monotonic()
            if parcels:
                self._pause, self.alone = _SOON, self.alone and all(one.sender == self._node.token for one in parcels)
            if parcels or left <= 0:
                return parcels
            pause = _ALONE if self.alone else self._pause
            self._pause = min(1.5 * self._pause, _LATE)
            if self._streaming and not self._unsure:
                pause = _RARELY
            try:
                async with asyncio.timeout(min(pause, left)):
                    await self._news.wait()
            except TimeoutError:
                self._unsure = True

    async def _remove(self) -> None:
        """Where it fails, it is made again with the next one."""
        through = {sender: lane.seq for sender, lane in self._lanes.items() if lane.removed < lane.seq}
        if not through:
            return
        mine = self._node.token
        try:
            with storage_errors():
                await self._removing.bulk_write(
                    [DeleteMany({"receiver": mine, "sender": s, "seq": {"$lte": seq}}) for s, seq in through.items()],
                    ordered=False,
                )
        except StorageUnavailable as error:
            log.debug("what was read of the lanes stays for now: %s", error)
        else:
            for sender, seq in through.items():
                self._lanes[sender].removed = seq

    async def _look(self) -> list[Parcel]:
        """What is there and follows what was given."""
        self._unsure, self._heard, self._heard_bytes = True, [], 0
        documents, cut = await self._page(self._behind)
        if not documents and self._behind:
            documents, cut = await self._page(0)
        parcels, _ = await self._take(documents)
        self._behind = documents[-1]["sender"] if cut else 0
        self._unsure = cut
        return parcels

    async def _take_heard(self) -> list[Parcel]:
        """The same of what the change stream has brought. Where that lacks something, the next look is into the lanes."""
        documents, self._heard, self._heard_bytes = self._heard, [], 0
        self._unsure = True
        parcels, self._unsure = await self._take(documents)
        return parcels

    async def _take(self, documents: list[Raw]) -> tuple[list[Parcel], bool]:
        """The parcels that are whole with these entries, and whether there was one that does not follow what was read before.
        Nothing counts as given before all of it is read."""
        gap = False
        changed: dict[int, Lane] = {}
        whole: list[tuple[int, Parcel, list[int]]] = []
        for document in documents:
            sender = document["sender"]
            lane = changed.get(sender)
            if lane is None:
                known = self._lanes.get(sender) or Lane()
                lane = changed[sender] = Lane(known.seq, known.removed, known.parcel, list(known.parts))
            if document["seq"] == lane.seq + 1:
                parts = step(lane, document)
                if parts:
                    whole.append((sender, *unpack(parts)))
            elif document["seq"] > lane.seq:
                gap = True
        absent = [message_id for _, _, ids in whole for message_id in ids]
        read = await self._read_messages(absent) if absent else []
        self._lanes.update(changed)
        for sender, parcel, _ in whole:
            parcel.sender = sender
            parcel.live = list(filled(parcel.live, read))
        return [parcel for _, parcel, _ in whole], gap

    async def _page(self, behind: int) -> tuple[list[Raw], bool]:
        """Entries of the lanes of senders ``behind`` one, and whether there may be more."""
        query: Raw = {"receiver": {"$eq": self._node.token}}
        if behind:
            query["sender"] = {"$gt": behind}
        documents: list[Raw] = []
        size = 0
        with storage_errors():
            async with self._collection.find(query).sort([("sender", 1), ("seq", 1)]).limit(_PAGE) as cursor:
                async for document in cursor:
                    documents.append(document)
                    size += len(document["body"])
                    if size >= _PAGE_BYTES:
                        return documents, True
        return documents, len(documents) >= _PAGE

    async def _listen(self) -> None:
        """Hear what others send. What is missed is found by looking now and then."""
        mine = {"$match": {"operationType": "insert", "fullDocument.receiver": self._node.token}}
        while True:
            try:
                with storage_errors():
                    async with await self._collection.watch([mine]) as stream:
                        self._streaming = self._unsure = True  # there may be what came before the stream was there
                        self._news.set()
                        async for change in stream:
                            self._hear(change["fullDocument"])
            except StorageUnavailable as error:
                log.debug("the change stream ended: %s", error)
            finally:
                self._streaming = False
                self._news.set()
            await asyncio.sleep(_RARELY)

    def _hear(self, document: Raw) -> None:
        self._heard.append(document)
        self._heard_bytes += len(document["body"])
        if self._heard_bytes > _PAGE_BYTES or len(self._heard) > _PAGE:
            self._unsure, self._heard, self._heard_bytes = True, [], 0
        self._news.set()

    # --- ends ------------------------------------------------------------------------------------------------------

    async def forget(self, token: int) -> None:
        """Remove the lanes of a receiver that is gone."""
        with storage_errors():
            await self._collection.delete_many({"receiver": {"$eq": token}})

    async def forget_all_but(self, there: Iterable[int]) -> None:
        """Remove the lanes of receivers that are gone: older than this node, and not ``there``."""
        with storage_errors():
            await self._collection.delete_many({"receiver": {"$lt": self._node.token, "$nin": list(there)}})
