"""What takes a look at much: found out in the background, now and then.

Kept true: looking takes at most a hundredth of the time, however much there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from storage.errors import StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE = 60.0
"""Seconds between two looks, at least."""
_SHARE = 100
"""And so many times what the last one took."""


class InBackground(Generic[T]):
    """`latest` is what ``find`` found last; ``what`` that is, for the log."""

    def __init__(self, what: str, find: Callable[[], Awaitable[T]]) -> None:
        self._what = what
        self._find = find
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None
        self.latest: T | None = None
        """None before the first look is done."""

    def look(self) -> None:
        """Begin to look again where it is time for that."""
        loop = asyncio.get_running_loop()
        if self._task is None and loop.time() >= self._next:
            self._task = loop.create_task(self._look(), name=self._what)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.latest = await self._find()
        except StorageError as error:
            log.debug("%s is not known now: %s", self._what, error)
        except Exception:
            log.exception("looking for %s failed", self._what)
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
