"""The one way to wait for what nothing tells a test about: ask again and again, and name what did not come.

Where an event tells, wait for the event. A pause between two questions is no guess at how long something takes.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a test gives up. A machine that does ten things at once needs them; who need not wait does not."""
_PAUSE = 0.005

What = str | Callable[[], str]


@overload
async def until(ask: Callable[[], Coroutine[Any, Any, T]], what: What = "", patience: float = PATIENCE) -> T: ...


@overload
async def until(ask: Callable[[], T], what: What = "", patience: float = PATIENCE) -> T: ...


async def until(ask: Callable[[], Any], what: What = "", patience: float = PATIENCE) -> Any:
    """The first true answer of ``ask``, which may be async."""
    deadline = time.monotonic() + patience
    while True:
        answer = ask()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        _go_on(deadline, patience, what)
        await asyncio.sleep(_PAUSE)


def wait_until(ask: Callable[[], T], what: What = "", patience: float = PATIENCE) -> T:
    """The same where there is no event loop."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not (answer := ask()):
        _go_on(deadline, patience, what)
        pause.wait(_PAUSE)
    return answer


def _go_on(deadline: float, patience: float, what: What) -> None:
    told = what if isinstance(what, str) else what()
    assert time.monotonic() < deadline, f"after {patience:g} s still not: {told or 'what the test waits for'}"
