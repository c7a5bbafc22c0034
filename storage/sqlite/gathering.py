"""Look-ups that gather while others are under way, so that many at once cost a few queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE = 500
"""Keys of one query at most."""


class Gathering(Generic[K, V]):
    """Asks ``look_up`` for what came while it was busy with the keys before.

    A query is handed to a thread, and its answer back, which costs more than the query. Where a thousand clients connect at
    once, and each of their devices is looked for, a few dozen share one. Who comes alone waits for nobody.
    """

    def __init__(self, look_up: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._look_up = look_up
        self._asked: list[tuple[K, asyncio.Future[V | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """What is found, None for nothing. Raises what ``look_up`` raises."""
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="look-ups")
        return await answer

    async def _run(self) -> None:
        asked: dict[K, asyncio.Future[V | None]] = {}
        try:
            while asked := self._take():
                try:
                    found = await self._look_up(list(asked))
                except Exception as error:  # noqa: BLE001 - it is raised where the answers are awaited
                    for answer in asked.values():
                        if not answer.done():
                            answer.set_exception(error)
                else:
                    for key, answer in asked.items():
                        if not answer.done():
                            answer.set_result(found.get(key))
        finally:
            self._task = None
            for answer in [*asked.values(), *(answer for _, answer in self._asked)]:
                answer.cancel()  # the loop ends: nobody is to wait for what does not come
            self._asked.clear()

    def _take(self) -> dict[K, asyncio.Future[V | None]]:
        """The next keys. Who asks for one twice is given two objects, so that nobody's changes are another's."""
        taken: dict[K, asyncio.Future[V | None]] = {}
        left = []
        for key, answer in self._asked:
            if answer.done():
                continue  # nobody waits for it any more
            if key in taken or len(taken) == AT_ONCE:
                left.append((key, answer))
            else:
                taken[key] = answer
        self._asked = left
        return taken
