"""A test that leaves a task behind fails itself, not the one in which the task is collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support import pending_tasks

Loop = Callable[[], asyncio.AbstractEventLoop]

KINDS: list[Loop] = [asyncio.new_event_loop]
try:
    import uvloop
except ImportError:
    pass
else:
    KINDS.append(uvloop.new_event_loop)


@pytest.fixture(params=KINDS, ids=[kind.__module__ for kind in KINDS])
def new(request: pytest.FixtureRequest) -> Loop:
    kind: Loop = request.param
    return kind


def test_a_task_that_outlives_its_loop_is_told_of_once(new: Loop) -> None:
    loop = new()
    waiting = asyncio.sleep(1)  # not a wait: it never begins
    task = loop.create_task(waiting, name="left")
    loop.close()
    loop.close()
    waiting.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    (found,) = pending_tasks.taken()
    assert "left" in found
    assert pending_tasks.taken() == []


def test_a_task_that_was_ended_with_its_loop_is_not(new: Loop) -> None:
    async def main() -> None:
        asyncio.get_running_loop().create_task(asyncio.Event().wait())

    with asyncio.Runner(loop_factory=new) as runner:
        runner.run(main())
    assert pending_tasks.taken() == []
