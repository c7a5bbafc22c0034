"""CONNECTs take turns with everything else: some in each round of the event loop, so that those who are connected are served in
between, whether a fleet comes back at once or somebody floods the broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 4
"""CONNECTs in one round: a millisecond or two."""


class Turns:
    """Calls in the order in which they came, `AT_ONCE` of them in a round. No more wait than there are connections."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._left = AT_ONCE
        self._scheduled = False

    def take(self, call: Callable[[], None]) -> bool:
        """Call now, or when it is its turn. Whether it was now."""
        self._schedule()
        if self._waiting or not self._left:
            self._waiting.append(call)
            return False
        self._left -= 1
        call()
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        self._left = AT_ONCE
        while self._waiting and self._left:
            self._left -= 1
            self._schedule()
            self._waiting.popleft()()
