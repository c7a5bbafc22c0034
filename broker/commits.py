"""A group's commit, tried again for as long as storage is away; so is what else storage must do for a group in a cluster.

Kept true (docs/laws.md, 1 and 6): `commit` returns when the group is durable, or this node may not write any more. Storage is
given the very same objects each time, so that it finds by id what a commit of unknown outcome has stored. There is no limit of
attempts. What of a group was sent before, and is stored once, is storage's to say (`storage.rules.repeated`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine

from broker.counters import Counters
from storage.errors import FencedOut, StorageUnavailable
from storage.interface import Committer
from storage.records import Operation

log = logging.getLogger(__name__)

_BACKOFF: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class Commits:
    """Commits to a storage that may be away. ``on_fenced`` is called when another node has taken over."""

    def __init__(self, storage: Committer, counters: Counters, on_fenced: Callable[[], None]) -> None:
        self._storage = storage
        self._counters = counters
        self._on_fenced = on_fenced
        self.unavailable_since: float | None = None
        """`time.monotonic()` of the first failure of the group under way; None while storage works."""
        self._last_error = ""

    def commit(self, operations: list[Operation]) -> Coroutine[object, object, bool]:
        """Commit until it works. False if this node may not write any more."""
        return self.until_done(lambda: self._storage.commit(operations))

    async def until_done(self, work: Callable[[], Coroutine[object, object, None]]) -> bool:
        """Do some work of storage's until it works. False if this node may not write any more."""
        attempt = 0
        while True:
            try:
                await work()
            except StorageUnavailable as error:
                self._counters.storage_errors += 1
                if self.unavailable_since is None:
                    self.unavailable_since = time.monotonic()
                if str(error) != self._last_error:
                    log.error("storage is unavailable, nothing is acknowledged until it is back: %s", error)
                    self._last_error = str(error)
            except FencedOut as error:
                log.critical("this node may not write any more: %s", error)
                self._on_fenced()
                return False
            except Exception:
                self._counters.storage_errors += 1
                if self.unavailable_since is None:
                    self.unavailable_since = time.monotonic()
                    self._last_error = "unexpected error, see the log"
                    log.exception("storage failed in an unexpected way, nothing is acknowledged until it works")
            else:
                if self.unavailable_since is not None:
                    log.warning("storage is back after %.1f s", time.monotonic() - self.unavailable_since)
                    self.unavailable_since, self._last_error = None, ""
                return True
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1
