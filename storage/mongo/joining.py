"""How a node gets its place: a token above all others, and a number that nobody has, or may still wake up with."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Mapping

from storage.cluster import DEAD, GONE, NUMBER_RESTS_MS, NUMBERS, UP, Node
from storage.errors import StorageUnavailable, StorageUnusable
from storage.mongo.clock import DatabaseClock
from storage.mongo.connection import inserted, storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.node import MongoNode, node_document, node_key
from storage.mongo.process import has_ended, this_process

log = logging.getLogger(__name__)

_ATTEMPTS = 100
_WATCHED = 0.25
"""The part of a lease for which a predecessor must be silent: that of two beats."""


async def join(
    collection: Collection, clock: DatabaseClock, lease_ms: int, name: str, settings: Mapping[str, str], above: int = 0
) -> MongoNode:
    """Become a node, with a token over ``above`` and over all that there ever were.

    Raises `StorageUnusable` where a node that is up has other settings, or no number is free.
    """
    settings = {**settings, "tideline_lease_ms": str(lease_ms)}
    await _mark_predecessors(collection, lease_ms / 1000 * _WATCHED)
    for _ in range(_ATTEMPTS):
        now = await clock.read()
        known = await _known(collection)
        _refuse_others(known, settings)
        number, last = _free_number(known, now)
        token = max([above, *(document["token"] for document in known)]) + 1
        me = Node(number, token, name or f"{socket.gethostname()}-{number}", seen=now, done=last, started=now)
        document = {**node_document(me), "process": this_process(), "settings": json.dumps(settings, sort_keys=True)}
        sent = time.monotonic()
        if await inserted(collection, document, opening=True):  # else another one was faster, whose number and settings count
            await _forget(collection, known)
            return MongoNode(collection, clock, me, lease_ms, sent)
    raise StorageUnavailable("mongodb: joining found its place taken again and again")


async def _known(collection: Collection) -> list[Raw]:
    """Every node, by token."""
    with storage_errors(opening=True):
        return sorted(await collection.find().to_list(None), key=lambda document: int(document["token"]))


async def _mark_predecessors(collection: Collection, watched: float) -> None:
    """Mark those dead whose process was one of this machine and has ended: nobody must wait for their leases to run out.

    A copy of a running virtual machine has the names of its processes as well, and they go on in the other one. So whose beat
    moves within ``watched`` seconds lives, whatever this machine says.
    """
    ended = [document for document in await _known(collection) if document["state"] == UP and has_ended(document["process"])]
    if ended:
        await asyncio.sleep(watched)
    for document in ended:
        with storage_errors(opening=True):
            result = await collection.update_one(
                {"_id": document["_id"], "state": UP, "beat": document["beat"]}, {"$set": {"state": DEAD}}
            )
        if result.matched_count:
            log.warning("node %d (%s) was a process of this machine that has ended", document["number"], document["name"])
        else:
            log.warning("node %d (%s) has the name of a process that ended, and beats", document["number"], document["name"])


def _refuse_others(known: list[Raw], settings: Mapping[str, str]) -> None:
    for document in known:
        if document["state"] != UP:
            continue
        theirs = json.loads(document["settings"])
        for name in sorted(theirs.keys() & settings.keys()):
            if theirs[name] != settings[name]:
                raise StorageUnusable(
                    f"{name} is {settings[name]!r} here and {theirs[name]!r} on node {document['number']}"
                    f" ({document['name']}): it must be the same on all nodes"
                )


def _free_number(known: list[Raw], now: int) -> tuple[int, int]:
    """The lowest number that is free, and the highest id that it was used for."""
    last: dict[int, int] = {}
    taken: set[int] = set()
    for document in known:
        number = document["number"]
        last[number] = max(document["done"], last.get(number, 0))
        if document["state"] != GONE or document["ended"] > now - NUMBER_RESTS_MS:
            taken.add(number)
    free = next((number for number in range(NUMBERS) if number not in taken), None)
    if free is None:
        hours = NUMBER_RESTS_MS // 3_600_000
        raise StorageUnusable(f"all {NUMBERS} node numbers are in use, or were by nodes that died in the last {hours} hours")
    return free, last.get(free, 0)


async def _forget(collection: Collection, known: list[Raw]) -> None:
    """Remove nodes that are gone and whose number has had another since: the last one of each tells its highest id."""
    newest = {document["number"]: document["token"] for document in known}
    old = [d["_id"] for d in known if d["state"] == GONE and d["token"] < newest[d["number"]]]
    if old:
        with storage_errors(opening=True):
            await collection.delete_many({"_id": {"$in": old}})


async def mark_dead(collection: Collection, seen: Node) -> bool:
    """See `storage.cluster.Cluster`."""
    with storage_errors():
        result = await collection.update_one(
            {"_id": node_key(seen.token), "state": UP, "beat": seen.beat}, {"$set": {"state": DEAD}}
        )
    return bool(result.matched_count)
