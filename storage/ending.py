"""The end of tasks that may wait for a database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN = 0.1
"""Seconds between two attempts."""


async def end(tasks: Iterable[asyncio.Task[Any] | None], again: float = AGAIN) -> None:
    """Cancel tasks until they have ended, however they do.

    Once is not enough. A driver may take the cancellation for a lost connection and try again, and pymongo connects and sends
    by `asyncio.wait_for`, which in Python 3.11 drops one that comes when what it waited for has just been done: the task then
    waits for the server as if nothing had been said, until a time limit of the driver's.
    """
    given = [task for task in tasks if task is not None]
    left = {task for task in given if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again)
    await asyncio.gather(*given, return_exceptions=True)  # looked at, so that none is told of as never retrieved
