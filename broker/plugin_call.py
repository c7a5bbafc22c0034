"""Awaiting a plugin: what goes wrong within it is its own fault, also where that is a cancellation that nobody asked for.

Who awaits what was cancelled is cancelled itself. A plugin whose own task or client was cancelled would so end whatever calls
it, and leave whoever waits for that waiting for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


class CancelledWithin(Exception):
    """A plugin awaited what was cancelled."""


def called(function: Callable[[S], T], argument: S) -> T:
    """What a plugin's plain function answers, or the awaitable of one that is not. Raises as `answer_of` does."""
    try:
        return function(argument)
    except asyncio.CancelledError as error:
        raise CancelledWithin("it asked for what was cancelled") from error


async def answer_of(call: Awaitable[T]) -> T:
    """What a plugin answers. Raises `CancelledWithin`, and what the plugin raises."""
    try:
        return await call
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CancelledWithin("it awaited what was cancelled") from error
