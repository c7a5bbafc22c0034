"""How far devices are behind that are not connected: found out in the background, now and then, since it takes a look at each.

Kept true: looking takes at most a hundredth of the time, however many devices there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from storage.errors import StorageError

log = logging.getLogger(__name__)

PAUSE = 60.0
"""Seconds between two looks, at least."""
_SHARE = 100
"""And so many times what the last one took."""


class Behind(NamedTuple):
    """Inboxes of which a device has not acknowledged all; the entries that the last of each one's devices has not, all
    together, and those of the largest."""

    inboxes: int = 0
    entries: int = 0
    largest: int = 0


class Inboxes(Protocol):
    """What is asked of storage."""

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]: ...

    def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]: ...


class Backlog:
    """`latest` is what was found last."""

    def __init__(self, storage: Inboxes) -> None:
        self._storage = storage
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None
        self.latest: Behind | None = None
        """None before the first look is done."""

    def look(self) -> None:
        """Begin to look again where it is time for that."""
        loop = asyncio.get_running_loop()
        if self._task is None and loop.time() >= self._next:
            self._task = loop.create_task(self._look(), name="backlog")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.latest = await behind(self._storage)
        except StorageError as error:
            log.debug("how far devices are behind is not known now: %s", error)
        except Exception:
            log.exception("looking how far devices are behind failed")
        finally:
            ended = loop.time()
            self._next = ended + max(PAUSE, (ended - began) * _SHARE)
            self._task = None

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


async def behind(storage: Inboxes) -> Behind:
    """Walk over the inboxes and the lowest offset of each one's devices, both of which come by user key."""
    heads = storage.inboxes()
    user, head = b"", 0
    found = Behind()
    async for page in storage.lowest_offsets():
        for name, offset in page:
            wanted = name.encode(errors="surrogatepass")
            while user < wanted:
                try:
                    key, _, head = await anext(heads)
                except StopAsyncIteration:
                    return found
                user = key.encode(errors="surrogatepass")
            lag = head - offset if user == wanted else 0
            if lag > 0:
                found = Behind(found.inboxes + 1, found.entries + lag, max(found.largest, lag))
    return found
