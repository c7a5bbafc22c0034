"""One serving node per database: a lease with a fencing token.

No two clocks are compared. The holder writes a new ``beat`` every eighth of the lease's time and trusts the lease for four
fifths of it, counted from before the last beat was sent. Whoever wants the lease watches the document, and takes it only after
it saw no new beat for the whole time, or where the holder gave it back. A quarter of the time is enough where the holder was a
process of this machine that has ended: two beats are awaited all the same, as copies of a machine may look alike.

Taking it raises the token, which is the high part of the version of every state write: a holder that slept and wakes up finds
that its writes change nothing and that it may not acknowledge. What it had sent to the store before: `storage.mongo.watches`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass

import pymongo
from pymongo.errors import DuplicateKeyError

from storage.errors import FencedOut, StorageError, StorageInUse, StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw
from storage.mongo.process import has_ended, this_process
from storage.mongo.watches import Watches

log = logging.getLogger(__name__)

_ID = "serving"
_TRUSTED = 0.8
_BEATS = 8
"""In a lease's time."""
TOKEN_SHIFT = 40
"""A version's bits below the token."""


@dataclass(slots=True)
class Sighting:
    """What was last seen of the holder, and since when. It may outlast an attempt to take the lease."""

    mark: tuple[int, int] = (-1, -1)
    since: float = 0.0


class Lease:
    """The right to write to one database. ``done`` is kept with it: see `storage.mongo.documents.LeaseRecord`."""

    def __init__(self, collection: Collection, database: str, lease_ms: int) -> None:
        self._collection = collection
        self._database = database
        self._ms = lease_ms
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.token = 0
        self.done = 0
        self.watches = Watches()
        self.was_shared = False
        """Whether writers without a lease were ever at work; set by `acquire`."""
        self._counter = 0
        self._valid_until = 0.0
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    @property
    def base(self) -> int:
        """What every version of this holder is above, and every version of an earlier one below."""
        return self.token << TOKEN_SHIFT

    def next_version(self) -> int:
        """The version of the next group; higher than every earlier one of this or an earlier holder."""
        self._counter += 1
        return self.base | self._counter

    # --- taking it -------------------------------------------------------------------------------------------------

    async def acquire(self, seen: Sighting) -> None:
        """Take the lease and keep it until `release`.

        Waits for the lease of a crashed holder to run out, counted from what an earlier attempt has ``seen``. Raises
        `StorageInUse` where a living holder keeps it.
        """
        began = time.monotonic()
        renewed = False
        while True:
            record = await self._record()
            now = time.monotonic()
            wait = max(record["ttl"], self._ms) / 1000
            mark = (record["token"], record["beat"])
            if mark != seen.mark:
                renewed = seen.since > 0
                seen.mark, seen.since = mark, now
            silent = wait / 4 if has_ended(record.get("process", "")) else wait
            if not record["owner"] or now - seen.since >= silent:
                if await self._take(record):
                    break
            elif renewed and now - began >= wait:
                raise StorageInUse(f"database {self._database!r} is being served by {record['owner']}: stop that broker first")
            else:
                await asyncio.sleep(min(wait / 8, 0.5))
        self._task = asyncio.create_task(self._keep(), name="mongodb lease")

    async def share(self) -> None:
        """Take a number of this writer's own, beside others that write too; there is no lease then."""
        while True:
            record = await self._record()
            mine = record["shared"] + 1
            with storage_errors(opening=True):
                result = await self._collection.update_one({"_id": _ID, "shared": record["shared"]}, {"$set": {"shared": mine}})
            if result.matched_count:
                self.token = mine
                self._valid_until = float("inf")
                return

    async def _record(self) -> Raw:
        with storage_errors(opening=True):
            while True:
                record = await self._collection.find_one({"_id": _ID})
                if record is not None:
                    return record
                fresh = {"owner": "", "token": 0, "shared": 0, "beat": 0, "ttl": self._ms, "expires_at": 0, "done": 0}
                with contextlib.suppress(DuplicateKeyError):  # another one was faster
                    await self._collection.insert_one({"_id": _ID, **fresh})

    async def _take(self, record: Raw) -> bool:
        token = max(record["token"], record["shared"]) + 1
        self.watches.load(record.get("late", []))
        if record["token"] and not record.get("settled"):
            self.watches.add(token << TOKEN_SHIFT, record["done"])
        late = self.watches.stored()
        sent = time.monotonic()
        with storage_errors(opening=True):
            result = await self._collection.update_one(
                {"_id": _ID, "token": record["token"], "beat": record["beat"], "owner": record["owner"]},
                {
                    "$set": {
                        "owner": self.owner,
                        "process": this_process(),
                        "token": token,
                        "ttl": self._ms,
                        "expires_at": self._expiry(),
                        "late": late,
                        "settled": 0,
                    },
                    "$inc": {"beat": 1},
                },
            )
        if not result.matched_count:
            return False
        if record["owner"]:
            log.warning("took the lease of %s, which has not renewed it", record["owner"])
        self.token, self.done, self.was_shared = token, record["done"], record["shared"] > 0
        self._valid_until = sent + self._ms / 1000 * _TRUSTED
        return True

    # --- keeping it ------------------------------------------------------------------------------------------------

    async def confirm(self) -> None:
        """Return only while this node holds the lease.

        Raises `FencedOut` where another one took it, and `StorageUnavailable` where that cannot be told.
        """
        if self._lost:
            raise self._fenced()
        if time.monotonic() >= self._valid_until:
            await self.renew()

    async def renew(self) -> None:
        """Write a beat, and how far everything is done; raises as `confirm` does."""
        sent = time.monotonic()
        with storage_errors():
            result = await self._collection.update_one(
                {"_id": _ID, "owner": self.owner, "token": self.token},
                {
                    "$inc": {"beat": 1},
                    "$set": {"done": self.done, "late": self.watches.stored(), "expires_at": self._expiry()},
                },
            )
        if not result.matched_count:
            self._lost = True
            raise self._fenced()
        self._valid_until = max(self._valid_until, sent + self._ms / 1000 * _TRUSTED)

    async def _keep(self) -> None:
        pause = self._ms / 1000 / _BEATS
        while True:
            await asyncio.sleep(pause)
            try:
                await self.renew()
            except StorageUnavailable as error:
                log.warning("could not renew the lease: %s", error)
                pause = self._ms / 1000 / _BEATS / 2
            except FencedOut as error:
                log.critical("%s", error)
                return
            else:
                pause = self._ms / 1000 / _BEATS

    async def release(self, *, settled: bool, patience: float | None = None) -> None:
        """Give the lease back; where storage is away, or takes longer than ``patience`` seconds, it runs out by itself.

        ``settled``: nothing that was sent may still come. Given back late it is the same lease: its token says whose.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if not self.token or self._lost or self._valid_until == float("inf"):
            return
        try:
            with storage_errors(), pymongo.timeout(patience):
                await self._collection.update_one(
                    {"_id": _ID, "owner": self.owner, "token": self.token},
                    {
                        "$set": {
                            "owner": "",
                            "done": self.done,
                            "late": self.watches.stored(),
                            "settled": int(settled),
                            "expires_at": 0,
                        }
                    },
                )
        except StorageError as error:
            log.warning("could not give the lease back, it runs out in %g s: %s", self._ms / 1000, error)
        self._lost = True

    def _expiry(self) -> int:
        return time.time_ns() // 1_000_000 + self._ms  # for people who look at the document; nothing goes by it

    def _fenced(self) -> FencedOut:
        return FencedOut(f"another node took over database {self._database!r} from {self.owner}")
