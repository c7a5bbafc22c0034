"""Where somebody who follows all that is stored is, kept in storage: it goes on from there after a restart, on any node.

It is kept as a job's state is, under a name with a colon, and not as a stored setting: those are all read again by every node
whenever one changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from broker.amqtt import Services
from plugins.follower import Follower
from storage.records import JobState, Message, SaveJob

_TIMEOUT = 10.0
"""Seconds that its commit may take."""
_PAGE_BYTES = 1 << 20
_POLL = 1.0
"""Seconds after which storage is looked at without being woken: another node may have stored something."""


def name_faults(name: str) -> Iterator[str]:
    """What is wrong with a follower's name in the configuration."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        yield f"name {name[:70]!r}: must be 1 to 64 letters, digits, dots, dashes or underscores"


def start_faults(start: str) -> Iterator[str]:
    """What is wrong with where a name that is new begins."""
    if start not in ("latest", "earliest"):
        yield f"start {start!r}: must be latest or earliest"


def file_faults(setting: str, path: str) -> Iterator[str]:
    """Whether a file that is named cannot be read."""
    if path and not os.path.isfile(path):
        yield f"{setting} {path!r}: there is no such file that this user can read"


class TailPlace:
    """The place of one follower. ``earliest``: a new name begins with all that is stored, and not with what comes next."""

    def __init__(self, server: Services, name: str, *, earliest: bool = False) -> None:
        self._server = server
        self._name = name
        self._earliest = earliest
        self._saved: tuple[object, ...] = ()
        self._oldest = 0
        """When the oldest message of the page under way was stored (ms); 0 for none."""
        self.news = asyncio.Event()
        """Something was stored."""
        self.follower: Follower | None = None
        """None while somebody else may be the one who follows."""
        self.more: dict[str, Any] = {}
        """What is kept beside it; plain JSON values."""

    async def begin(self) -> Follower:
        """Go on from what is stored; a new name begins durably, before anything is done. Raises as `Services.commit`."""
        storage = self._server.storage
        kept = next((state for state in await storage.jobs() if state.name == self._name), None)
        if kept is None:
            positions = {} if self._earliest else dict(await storage.tails())
            follower = self.follower = Follower(storage, positions, {})
            await self.save()
            return follower
        detail = json.loads(kept.detail)
        self.more |= detail["more"]
        follower = self.follower = Follower(storage, {int(n): place for n, place in detail["positions"].items()}, {})
        self._saved = self._state(follower)
        return follower

    @property
    def running(self) -> bool:
        """Whether it is this node that follows."""
        return self.follower is not None

    @property
    def lag(self) -> float:
        """The age, in seconds, of the oldest message that was read and is not dealt with; 0 where there is none."""
        return max(0, self._server.wall() - self._oldest) / 1000 if self._oldest else 0.0

    async def page(self, limit: int, deal: Callable[[list[Message]], Awaitable[None]]) -> None:
        """``deal`` with the next messages, up to ``limit``, and go on behind them, durably; where there are none, wait a while.

        Where ``deal`` raises, the same come again. Raises what it does, `StorageError`, and as `Services.commit`.
        """
        follower = self.follower or await self.begin()
        self.news.clear()
        page = await follower.read(limit, _PAGE_BYTES)
        self._oldest = min((message.time for message in page.messages), default=0)
        await deal(page.messages)
        follower.take(page.positions)
        if page.messages:
            await self.save()
        elif not follower.more:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self.news.wait()

    def give_up(self) -> None:
        """Somebody else follows from here on."""
        self.follower = None

    async def save(self) -> None:
        """Make it durable, where it is another than what is stored. Raises as `Services.commit`."""
        if self.follower is None or (state := self._state(self.follower)) == self._saved:
            return
        positions = {str(number): place for number, place in self.follower.positions.items()}
        detail = json.dumps({"positions": positions, "more": self.more})
        await self._server.commit([SaveJob(JobState(self._name, detail=detail))], _TIMEOUT)
        self._saved = state

    def _state(self, follower: Follower) -> tuple[object, ...]:
        return (dict(follower.positions), dict(self.more))
