"""Retained messages that expired leave memory, the counts and storage [MQTT-3.3.2-5], at a place in the order of messages.

Storage says which they are: memory need not have them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.pipeline import Step
from storage.ending import end
from storage.errors import StorageUnavailable
from storage.records import DropRetained, Operation

if TYPE_CHECKING:
    from broker.clock import ServerTime, Wheel
    from broker.retained.memory import Retained
    from storage.interface import RetainedReader

log = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two looks, each of which costs next to nothing while none has expired."""

_COUNT_SHARE = 0.01
"""Of the time, at most, goes to counting what is in storage, where memory has not all."""

_AT_ONCE = 1000
"""Messages that one group forgets, at most."""


class RetainedExpiry:
    """Looks from time to time whether retained messages have expired, and counts them."""

    def __init__(
        self, retained: Retained, storage: RetainedReader, time: ServerTime, clock: Wheel, submit: Callable[[Step], None]
    ) -> None:
        self._retained = retained
        self._storage = storage
        self._time = time
        self._clock = clock
        self._submit = submit
        self._task: asyncio.Task[None] | None = None
        self._next_count = 0.0
        self._again()

    def _again(self) -> None:
        self._clock.after(_EVERY, self.look)

    def look(self) -> None:
        """Forget what has expired, and look again once that is durable, at once where there is more."""
        self._task = asyncio.create_task(self._look(), name="expiry of retained messages")

    async def stop(self) -> None:
        """End a look under way."""
        await end([self._task])

    async def _look(self) -> None:
        now = self._time.now()
        stored: list[tuple[str, int]] = []
        try:
            stored = await self._storage.retained_expired(now, _AT_ONCE)
            await self._count()
        except StorageUnavailable as error:
            log.debug("retained messages that expired are not known: %s", error)
        except Exception:
            log.exception("looking for retained messages that expired failed")
        unstored = self._retained.unstored_expired(now)
        if stored or unstored:
            self._submit(ExpireStep(self, self._retained, stored, unstored, now))
        else:
            self._again()

    async def _count(self) -> None:
        began = self._clock.now()
        if not self._retained.whole and began >= self._next_count:
            self._retained.counted(await self._storage.retained_count())
            now = self._clock.now()
            self._next_count = now + (now - began) / _COUNT_SHARE


class ExpireStep(Step):
    """Forgets some of them."""

    def __init__(
        self, expiry: RetainedExpiry, retained: Retained, stored: list[tuple[str, int]], unstored: list[str], now: int
    ) -> None:
        self._expiry = expiry
        self._retained = retained
        self._stored = stored
        self._unstored = unstored
        self._now = now

    def apply(self) -> list[Operation]:
        for topic, message_id in self._stored:
            self._retained.forget(topic, message_id)
        expired = set(self._retained.unstored_expired(self._now))
        for topic in self._unstored:
            if topic in expired:
                self._retained.forget_unstored(topic)
        return [DropRetained(self._stored)] if self._stored else []

    def done(self) -> None:
        self._expiry.look()
