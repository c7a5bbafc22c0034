"""This node's place among the nodes of a database, and the right to write that comes with it.

No two clocks are compared. A node writes a beat every eighth of the lease's time, and trusts that nobody has marked it dead for
four fifths of that time, counted from before its last beat was sent; after that it acknowledges nothing until a beat succeeds.
Whoever marks it dead has seen no new beat for the whole time, and says which beat it saw last: of the two writes the later one
changes nothing. So a node that slept finds itself marked before it acknowledges anything.

Each beat leaves a mark, and is written only over one of this node's own. A running virtual machine that is copied goes on twice
as the same node: of the two the one that beats second finds the other one's mark, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING

import pymongo

from storage.cluster import DEAD, FEATURES, GONE, UP, Node
from storage.ending import end
from storage.errors import FencedOut, StorageError, StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import TOKEN_SHIFT, Collection, Raw

if TYPE_CHECKING:
    from storage.mongo.clock import DatabaseClock

log = logging.getLogger(__name__)

_TRUSTED = 0.8
_BEATS = 8
"""In a lease's time."""
_MOST_MARKS = 100
_DEAD = "was marked dead by another node, which saw no beat of it"
_COPIED = "runs twice, as its machine was copied while it ran: the other copy beats, this one ends"


def node_key(token: int) -> str:
    """The ``_id`` of a node's document."""
    return f"{token:016d}"


def node_of(document: Raw) -> Node:
    """What a node's document says."""
    return Node(
        document["number"],
        document["token"],
        document["name"],
        document["state"],
        document["beat"],
        document["seen"],
        document["done"],
        document["routes"],
        document["sessions"],
        document["features"],
        document["started"],
        document["asked"],
    )


def node_document(node: Node) -> Raw:
    """A node's document, without what only storage knows of it."""
    return {"_id": node_key(node.token), **node._asdict(), "features": FEATURES, "ended": 0, "mark": ""}


class MongoNode:
    """This node, from its join on. ``done``: every message of its own with an id up to it is committed."""

    def __init__(self, collection: Collection, clock: DatabaseClock, me: Node, lease_ms: int, sent: float) -> None:
        """``sent``: when the write that made it was sent, by the monotonic clock."""
        self._collection = collection
        self._clock = clock
        self._ms = lease_ms
        self.me = me
        self.token = me.token
        self.number = me.number
        self.done = me.done
        self._said = {"done": me.done, "routes": 0, "sessions": 0}
        self._counter = 0
        self._sent = sent
        self._valid_until = sent + lease_ms / 1000 * _TRUSTED
        self._fenced = ""
        self._turn = asyncio.Lock()
        self._marks = deque([""], _MOST_MARKS)
        """What the last beat may have left: of those that failed it is not known whether they arrived."""
        self._task: asyncio.Task[None] | None = None

    @property
    def lease_seconds(self) -> float:
        """See `storage.cluster.Cluster`."""
        return self._ms / 1000

    @property
    def base(self) -> int:
        """What every version of this node's groups is above, and every one of an earlier token below."""
        return self.token << TOKEN_SHIFT

    def next_version(self) -> int:
        """The version of the next group: no other group has it."""
        self._counter += 1
        return self.base | self._counter

    # --- living ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Beat, until `leave`."""
        self._task = asyncio.create_task(self._keep(), name="mongodb beats")

    async def confirm(self) -> None:
        """Return only while nobody can have marked this node dead.

        Raises `FencedOut` where somebody has, and `StorageUnavailable` where that cannot be told.
        """
        if self._fenced:
            raise FencedOut(self._fenced)
        if time.monotonic() >= self._valid_until:
            await self.renew()

    async def renew(self) -> None:
        """Write a beat; raises as `confirm` does."""
        async with self._turn:
            if self._fenced:
                raise FencedOut(self._fenced)
            sent = time.monotonic()
            mark = f"{time.time_ns()} {os.urandom(8).hex()}"
            self._marks.append(mark)
            with storage_errors():
                result = await self._collection.update_one(
                    {"_id": node_key(self.token), "state": UP, "mark": {"$in": list(self._marks)}},
                    {"$inc": {"beat": 1}, "$set": {**self._said, "seen": self._clock.estimate(), "mark": mark}},
                )
                if not result.matched_count:
                    document = await self._collection.find_one({"_id": node_key(self.token), "state": UP}, {"_id": 1})
            if not result.matched_count:
                self._fenced = f"node {self.number} ({self.me.name}) {_DEAD if document is None else _COPIED}"
                raise FencedOut(self._fenced)
            self._marks.clear()
            self._marks.append(mark)
            self._sent = max(self._sent, sent)
            self._valid_until = max(self._valid_until, sent + self._ms / 1000 * _TRUSTED)

    async def beat(self, *, done: int, routes: int, sessions: int) -> Node:
        """See `storage.cluster.Cluster`."""
        self._said = {"done": max(done, self._said["done"]), "routes": routes, "sessions": sessions}
        await self.renew()
        with storage_errors():
            document = await self._collection.find_one({"_id": node_key(self.token)})
        if document is None or document["state"] != UP:
            raise FencedOut(f"node {self.number} ({self.me.name}) is there no more")
        return node_of(document)

    async def _keep(self) -> None:
        """Beat where nobody else has this node beat."""
        pause = whole = self._ms / 1000 / _BEATS
        while True:
            await asyncio.sleep(max(0.0, pause - max(0.0, time.monotonic() - self._sent)) or pause / 4)
            if time.monotonic() - self._sent < pause:
                continue
            try:
                await self.renew()
                pause = whole
            except StorageUnavailable as error:
                log.warning("could not write a beat: %s", error)
                pause = whole / 2
            except FencedOut as error:
                log.critical("%s", error)
                return

    # --- leaving ---------------------------------------------------------------------------------------------------

    async def leave(self, *, settled: bool, patience: float | None = None) -> bool:
        """Say that this node has ended: with nothing left to do (``settled``), or as one whose last group others must finish.

        False where that could not be said, as storage is away or takes longer than ``patience`` seconds: others find out by
        themselves.
        """
        await end([self._task])
        self._task = None
        if self._fenced:
            return False
        self._fenced = f"node {self.number} ({self.me.name}) has left"
        said = {"done": self.done, "state": GONE} if settled else {"state": DEAD}
        try:
            with storage_errors(), pymongo.timeout(patience):
                await self._collection.update_one({"_id": node_key(self.token), "state": UP}, {"$set": said})
        except StorageError as error:
            log.warning("could not say that this node has ended; others will see in %g s: %s", self._ms / 1000, error)
            return False
        return True
