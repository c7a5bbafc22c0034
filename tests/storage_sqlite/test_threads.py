"""Who awaits a call on a thread: what it is told, and when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from storage.sqlite.threads import Worker

_WHERE: ContextVar[str] = ContextVar("where")


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker("test")
    yield made
    await made.stop()


async def test_result_and_error_arrive_where_they_are_awaited(worker: Worker) -> None:
    assert await worker.run(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    late = worker.run(lambda: 2)
    await worker.run(lambda: 3)
    assert await late == 2, "it was there before anybody asked"


async def test_task_goes_on_from_the_callback_that_brings_the_answer(worker: Worker) -> None:
    """Before what came to the loop behind the answer, and in its own context."""
    seen: list[str] = []
    loop, both = asyncio.get_running_loop(), threading.Event()

    async def ask() -> None:
        _WHERE.set("in the task")
        await worker.run(lambda: None)
        seen.append(_WHERE.get("elsewhere"))

    def next_call() -> None:
        loop.call_soon_threadsafe(seen.append, "behind it")
        both.set()

    task = asyncio.create_task(ask())
    loop.call_soon(worker.post, next_call)
    loop.call_soon(both.wait)  # holds the loop up until both have come to it
    await task
    await asyncio.sleep(0)
    assert seen == ["in the task", "behind it"]


async def test_call_is_made_though_who_awaits_it_is_cancelled(worker: Worker) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        go_on.wait()
        made.set()

    async def ask() -> None:
        await worker.run(call)

    task = asyncio.create_task(ask())
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await worker.run(made.is_set), "and its answer disturbs nobody"
