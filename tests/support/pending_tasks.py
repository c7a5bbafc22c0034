"""Which tasks were left pending when their event loop closed.

Nobody ends them any more: they are collected in a later test, which asyncio then tells of an error. So the test that leaves one
has to fail itself. This looks only when a loop closes, which costs nothing that can be measured.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

_left: list[str] = []


def watch() -> None:
    """From now on, look at each event loop that closes, asyncio's and uvloop's."""
    kinds: list[Any] = [asyncio.BaseEventLoop]
    with suppress(ImportError):
        import uvloop

        kinds.append(uvloop.Loop)
    for kind in kinds:
        _look_before(kind, kind.close)


def taken() -> list[str]:
    """The tasks that were left since this was asked before."""
    found = _left[:]
    del _left[: len(found)]  # a loop may close in another thread
    return found


def _look_before(kind: Any, close: Any) -> None:
    def look(loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed() and not loop.is_running():
            _left.extend(map(repr, asyncio.all_tasks(loop)))
        close(loop)

    kind.close = look
