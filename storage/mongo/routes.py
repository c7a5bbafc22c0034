"""The routes: one timeline, an entry a document, its ``_id`` the sequence. Appended at the end + 1, or behind what was faster.

A node that was marked dead appends nothing that stands behind what was appended after the mark: whoever learns of a new end
confirms that it lives before it inserts there, and what it had sent before finds its place taken.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence

from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from storage.cluster import UP, Change, Route
from storage.errors import FencedOut, StorageUnavailable
from storage.mongo.clock import DatabaseClock
from storage.mongo.codec import change_documents
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.node import MongoNode

log = logging.getLogger(__name__)

_ATTEMPTS = 200
_KEPT_LEASES = 4
"""Entries that are younger than this are never removed."""


def route_key(seq: int) -> str:
    """The ``_id`` of an entry."""
    return f"{seq:016d}"


class Routes:
    """One node's view of the routes."""

    def __init__(self, collection: Collection, nodes: Collection, node: MongoNode, clock: DatabaseClock) -> None:
        self._collection = collection
        self._probed = collection.with_options(read_concern=ReadConcern("linearizable"))
        self._nodes = nodes
        self._node = node
        self._clock = clock
        self._end = 0
        """The highest sequence that is known."""
        self._counter = itertools.count(1)
        self._waiting: list[tuple[Sequence[Change], asyncio.Future[None]]] = []
        self._appending: asyncio.Task[None] | None = None

    # --- appending -------------------------------------------------------------------------------------------------

    async def append(self, changes: Sequence[Change]) -> None:
        """Append changes; durable when it returns. What comes while an append is on its way goes into the next one, together.

        Raises `StorageUnavailable` where the outcome is not known: then append them again, which does no harm.
        """
        if not changes:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, done))
        if self._appending is None or self._appending.done():
            self._appending = asyncio.create_task(self._append_all(), name="mongodb routes")
        await done

    async def _append_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                for part in change_documents(change for changes, _ in waiting for change in changes):
                    await self._append(part)
            except BaseException as error:
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                        done.exception()  # it may be that nobody waits any more
                if not isinstance(error, Exception):
                    raise
            else:
                for _, done in waiting:
                    if not done.done():
                        done.set_result(None)

    async def _append(self, changes: list[list[object]]) -> None:
        mine = f"{self._node.token} {next(self._counter)}"
        fields = {"writer": self._node.token, "mark": mine, "changes": changes}
        for _ in range(_ATTEMPTS):
            await self._node.confirm()
            seq = self._end + 1
            document = {"_id": route_key(seq), "seq": seq, "at": self._clock.estimate(), **fields}
            if await inserted(self._collection, document) or await self._is_mine(seq, mine):
                self._end = max(self._end, seq)
                return
            await self.end()
        raise StorageUnavailable("mongodb: appending to the routes found its place taken again and again")

    async def _is_mine(self, seq: int, mark: str) -> bool:
        """Whether the entry is this append's own: the driver, or this object, has sent it before."""
        with storage_errors():
            found = await self._collection.find_one({"_id": route_key(seq)}, {"mark": 1})
        return found is not None and found["mark"] == mark

    # --- reading ---------------------------------------------------------------------------------------------------

    async def end(self) -> tuple[int, int]:
        """See `storage.cluster.Cluster.routes_end`."""
        with storage_errors():
            last = await self._collection.find_one({}, {"seq": 1}, sort=[("seq", -1)])
            first = await self._collection.find_one({}, {"seq": 1}, sort=[("seq", 1)])
        if first is None or last is None:
            self._end = 0
            return 1, 0
        self._end = last["seq"]
        return first["seq"], self._end

    async def after(self, after: int, limit: int) -> list[Route]:
        """See `storage.cluster.Cluster.routes_after`.

        The entry behind is asked for by its key, which alone can be linearizable. Where there is one, those that follow are
        read in pages, until the one behind the last is asked for in vain.
        """
        routes: list[Route] = []
        while len(routes) < limit:
            last = after + len(routes)
            probed = await self._probe(last + 1)
            if probed is None:
                if last < self._end and await self._is_behind(last):
                    continue
                await self._node.confirm()  # what it lacks may have been removed since it was marked dead
                break
            routes.append(_route(probed))
            if len(routes) < limit:
                with storage_errors():
                    query = {"seq": {"$gt": last + 1}}
                    page = await self._collection.find(query).sort("seq", 1).limit(limit - len(routes)).to_list(None)
                follow = itertools.takewhile(lambda pair: pair[0] == pair[1]["seq"], enumerate(page, last + 2))
                routes += [_route(document) for _, document in follow]
        self._end = max(self._end, after + len(routes))
        return routes

    async def _is_behind(self, last: int) -> bool:
        """Whether there are entries behind ``last`` after all. What was seen of them may be gone with a server that had not
        written it yet; raises `FencedOut` where it was removed."""
        first, end = await self.end()
        if first > last + 1:
            raise FencedOut(f"entries from {last + 1} on are removed from the routes: start this node anew")
        return end > last

    async def _probe(self, seq: int) -> Raw | None:
        query = {"_id": route_key(seq)}
        with storage_errors():
            if self._probed is not self._collection:
                try:
                    return await self._probed.find_one(query)
                except OperationFailure as error:
                    if error.code not in _NO_LINEARIZABLE:
                        raise
                    log.info("the database reads the majority's data only, which one server alone has: %s", error)
                    self._probed = self._collection
            return await self._collection.find_one(query)

    # --- trimming --------------------------------------------------------------------------------------------------

    async def trim(self, before: int) -> int:
        """See `storage.cluster.Cluster.trim_routes`."""
        await self._node.confirm()
        _, end = await self.end()
        with storage_errors():
            up = await self._nodes.find({"state": {"$eq": UP}}, {"routes": 1}).to_list(None)
            before = min([before, end, *(document["routes"] + 1 for document in up)])
            young = self._clock.estimate() - int(_KEPT_LEASES * self._node.lease_seconds * 1000)
            kept = await self._collection.find_one(
                {"seq": {"$lt": before}, "at": {"$gte": young}}, {"seq": 1}, sort=[("seq", 1)]
            )
            result = await self._collection.delete_many({"seq": {"$lt": kept["seq"] if kept else before}})
        return int(result.deleted_count)


_NO_LINEARIZABLE = {72, 76, 123, 148, 238, 40573}
"""InvalidOptions, NoReplicationEnabled, NotAReplicaSet, ReadConcernMajorityNotEnabled, NotImplemented."""


def _route(document: Raw) -> Route:
    return Route(document["seq"], document["writer"], tuple(Change(*fields) for fields in document["changes"]))
