"""How the nodes divide the inboxes of shared subscriptions: one document an inbox, written by compare-and-set.

Each write gives the document a ``mark`` that it never had, and names the one that it saw. So a write that comes late, of a node
that slept, changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from storage.errors import StorageUnavailable
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.node import MongoNode
from storage.shared_inboxes import Division, Exchange, Exchanged, SeqRange

T = TypeVar("T")

_ATTEMPTS = 50
_PAUSE = 0.002
"""Seconds at most that who was overtaken waits, for each time that it was."""


class MongoSharedInboxes:
    """A `storage.cluster.SharedInboxes`."""

    def __init__(self, collection: Collection, node: MongoNode) -> None:
        self._collection = collection
        self._node = node

    async def exchange(self, inbox: str, request: Exchange) -> Exchanged:
        """See `storage.cluster.SharedInboxes`."""
        division = Division(request.since, request.since + 1)
        exchanged = await self._change(inbox, lambda known: known.exchange(self._node.token, request), division)
        assert exchanged is not None
        await self._node.confirm()  # what was claimed is not given out once others may have it
        return exchanged

    async def settle(self, inbox: str, entries: Sequence[int]) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._change(inbox, lambda known: known.settle(entries))

    async def release(self, inbox: str, token: int, held: Sequence[int], done: Sequence[int]) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._change(inbox, lambda known: known.release(token, held, done))

    async def divided(self) -> list[tuple[str, Division]]:
        """See `storage.cluster.SharedInboxes`."""
        with storage_errors():
            return [(document["_id"], division_of(document)) for document in await self._collection.find().to_list(None)]

    async def forget(self, inbox: str, since: int) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._node.confirm()
        with storage_errors():
            await self._collection.delete_one({"_id": inbox, "since": since})

    async def _change(self, inbox: str, change: Callable[[Division], T], new: Division | None = None) -> T | None:
        """Change a division, ``new`` where there is none; None where there is none, and none is made."""
        for attempt in range(_ATTEMPTS):
            await self._node.confirm()
            with storage_errors():
                found = await self._collection.find_one({"_id": inbox})
            if found is None and new is None:
                return None
            division = division_of(found) if found is not None else new
            assert division is not None
            answer = change(division)
            fields = _fields(division)
            if found is None:
                new = Division(division.since, division.since + 1)
                if await inserted(self._collection, {"_id": inbox, **fields, "mark": uuid.uuid4().hex}):
                    return answer
            elif fields.items() <= found.items():
                return answer
            else:
                guard = {"_id": inbox, "mark": found["mark"]}
                with storage_errors():
                    result = await self._collection.update_one(guard, {"$set": {**fields, "mark": uuid.uuid4().hex}})
                if result.matched_count:
                    return answer
            await asyncio.sleep(random.random() * _PAUSE * (attempt + 1))
        raise StorageUnavailable(f"mongodb: {inbox!r} was changed by others {_ATTEMPTS} times in a row")


def _fields(division: Division) -> Raw:
    return {
        "since": division.since,
        "next": division.next,
        "free": [list(part) for part in division.free],
        "claimed": _of_nodes(division.claimed),
        "held": division.held,
        "refused": _of_nodes(division.refused),
    }


def _of_nodes(ranges: Mapping[int, Sequence[SeqRange]]) -> list[list[int]]:
    return [[token, *part] for token, parts in sorted(ranges.items()) for part in parts]


def division_of(document: Raw) -> Division:
    """The division that a document holds."""
    refused = _by_node(document.get("refused", ()))  # one that an earlier version wrote has none
    claimed, held = _by_node(document["claimed"]), list(document["held"])
    return Division(document["since"], document["next"], _ranges(document["free"]), claimed, held, refused)


def _by_node(parts: Iterable[Sequence[int]]) -> dict[int, list[SeqRange]]:
    found: dict[int, list[SeqRange]] = {}
    for token, first, last in parts:
        found.setdefault(token, []).append(SeqRange(first, last))
    return found


def _ranges(parts: Iterable[Sequence[int]]) -> list[SeqRange]:
    return [SeqRange(first, last) for first, last in parts]
