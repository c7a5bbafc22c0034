"""A group's commit, tried again for as long as storage is away; so is what else storage must do for a group in a cluster.

Kept true (docs/laws.md, 1 and 6): `commit` returns when the group is durable, or this node may not write any more. Storage is
given the very same objects each time, so that it finds by id what a commit of unknown outcome has stored. There is no limit of
attempts. What of a group was sent before, and is stored once, is storage's to say (`storage.rules.repeated`).

A storage that can tell (`storage.interface.Probed`) is asked between commits whether it would take a message: that the disk is
full is known before somebody publishes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine

from broker.clock import Wheel
from broker.counters import Counters
from storage.ending import end
from storage.errors import DiskFull, FencedOut, StorageError, StorageUnavailable, StorageUnusable
from storage.interface import Committer, Probed
from storage.records import Operation

log = logging.getLogger(__name__)

_BACKOFF: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_PROBE = 1.0
"""Seconds from one probe of storage to the next."""
_TOLD = 10
"""Reasons that are told of one absence: some, such as a driver's, have a number in them that is never the same."""


class Commits:
    """Commits to a storage that may be away. ``on_fenced`` is called when another node has taken over."""

    def __init__(self, storage: Committer, counters: Counters, on_fenced: Callable[[], None]) -> None:
        self._storage = storage
        self._counters = counters
        self._on_fenced = on_fenced
        self.unavailable_since: float | None = None
        """`time.monotonic()` of the first failure, of the group under way or of a probe; None while storage works."""
        self.disk_full = False
        """It is for want of room that storage takes nothing."""
        self._told: set[str] = set()
        self._under_way = 0
        self._refuses = False  # so the last probe said: a commit without a message, which a full disk may take, proves nothing
        self._probe: asyncio.Task[None] | None = None

    def commit(self, operations: list[Operation]) -> Coroutine[object, object, bool]:
        """Commit until it works. False if this node may not write any more."""
        return self.until_done(lambda: self._storage.commit(operations))

    async def until_done(self, work: Callable[[], Coroutine[object, object, None]]) -> bool:
        """Do some work of storage's until it works. False if this node may not write any more."""
        attempt = 0
        self._under_way += 1
        try:
            while True:
                try:
                    await work()
                except (StorageUnavailable, StorageUnusable) as error:
                    self._counters.storage_errors += 1
                    self._failed(error)
                except FencedOut as error:
                    log.critical("this node may not write any more: %s", error)
                    self._on_fenced()
                    return False
                except Exception:
                    self._counters.storage_errors += 1
                    if self.unavailable_since is None:
                        self.unavailable_since = time.monotonic()
                        log.exception("storage failed in an unexpected way, nothing is acknowledged until it works")
                else:
                    if self.unavailable_since is not None and not self._refuses:
                        self._back(self.unavailable_since)
                    return True
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
                attempt += 1
        finally:
            self._under_way -= 1

    def _failed(self, error: StorageUnavailable | StorageUnusable) -> None:
        """Note the failure, and tell each reason once: what is left of a full disk changes all the time."""
        if self.unavailable_since is None:
            self.unavailable_since = time.monotonic()
        self.disk_full = isinstance(error, DiskFull)
        reason = "disk full" if self.disk_full else str(error)
        if reason not in self._told and len(self._told) < _TOLD:
            self._told.add(reason)
            log.error("storage is unavailable, nothing is acknowledged until it is back: %s", error)

    def _back(self, since: float) -> None:
        log.warning("storage is back after %.1f s", time.monotonic() - since)
        self.unavailable_since, self.disk_full = None, False
        self._told.clear()

    # --- between commits -----------------------------------------------------------------------------------------------

    async def watch(self, clock: Wheel) -> None:
        """Probe storage now, and then again and again, where it can be."""
        if isinstance(self._storage, Probed):
            await self._ask(self._storage)
            self._ask_later(self._storage, clock)

    def _ask_later(self, storage: Probed, clock: Wheel) -> None:
        def ask() -> None:
            if self._probe is None or self._probe.done():  # one that hangs is left alone
                self._probe = asyncio.create_task(self._ask(storage), name="storage probe")
            self._ask_later(storage, clock)

        clock.after(_PROBE, ask)

    async def _ask(self, storage: Probed) -> None:
        """What a commit under way finds counts more."""
        if self._under_way:
            return
        try:
            await storage.probe()
        except StorageUnavailable as error:
            self._refuses = True
            self._failed(error)
        except StorageError as error:
            log.debug("storage was not probed: %s", error)  # as it is closed by now; what else is wrong, a commit tells
        else:
            self._refuses = False
            if self.unavailable_since is not None and not self._under_way:
                self._back(self.unavailable_since)

    async def stop(self) -> None:
        """Probe no more: the clock has stopped."""
        await end([self._probe])
