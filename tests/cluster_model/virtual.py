"""An event loop whose time jumps when nothing is ready, and processes on it that can be stopped like real ones.

Nothing sleeps and no file descriptor is touched, so that minutes pass in milliseconds, the same way each time. What runs for a
node runs in that node's context: its tasks, its timers, the bytes that reach it. So a stopped process (SIGSTOP, SIGKILL) is one
whose callbacks are put aside, at whichever await it was.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

START = 1_800_000_000.0
"""The wall clock at the beginning, in seconds."""
_MOST_AT_ONCE = 50_000
"""Rounds of the loop at one moment of its time."""
_RUNNING: ContextVar[Process | None] = ContextVar("running", default=None)


class Process:
    """What one node runs. ``stopped``: nothing of it runs until `go_on`."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.stopped = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context: Context = copy_context()
        self.context.run(_RUNNING.set, self)
        self._loop = loop
        self._aside: list[asyncio.Handle] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task of this process."""
        task: asyncio.Task[T] = self._loop.create_task(coroutine, context=self.context)
        return task

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call in this process."""
        self._loop.call_soon(call, *args, context=self.context)

    def put_aside(self, handle: asyncio.Handle) -> None:
        """This would have run."""
        self._aside.append(handle)

    def go_on(self) -> None:
        """What was put aside runs, in its order."""
        self.stopped = False
        aside, self._aside = self._aside, []
        self._loop.ready(aside)

    def current(self) -> bool:
        """Whether what runs now is of this process."""
        return _RUNNING.get() is self


def running() -> Process | None:
    """The process of what runs now; None for what is of no node."""
    return _RUNNING.get()


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(_RUNNING)  # type: ignore[attr-defined]
        if process is not None and process.stopped:
            process.put_aside(self)
        else:
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ("order",)
    order: int

    def __lt__(self, other: Any) -> bool:
        return (self.when(), self.order) < (other.when(), other.order)

    def _run(self) -> None:
        process = self._context.get(_RUNNING)  # type: ignore[attr-defined]
        if process is not None and process.stopped:
            process.put_aside(self)
        else:
            super()._run()


class _Selector:
    """What the loop waits with: instead of waiting it sets the time on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._idle = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left that could ever happen, and somebody waits")
        self._idle = 0 if timeout > 0 else self._idle + 1
        if self._idle > _MOST_AT_ONCE:
            raise RuntimeError("something is always ready, so that no time passes")
        self._loop.now += max(0.0, timeout)
        return []

    def close(self) -> None:
        """There is nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """``now`` is its time, in seconds; threads and sockets it has none."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._order = itertools.count()
        self._selector = _Selector(self)

    def time(self) -> float:
        return self.now

    def ready(self, handles: list[asyncio.Handle]) -> None:
        """Run these next."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Nothing that is ready or has a time runs any more."""
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            handle.cancel()

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing else runs that would have to wake this."""

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{call} would run in a thread, in a time of its own")

    def _call_soon(self, call: Any, args: Any, context: Any) -> asyncio.Handle:
        handle = _Handle(call, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = _TimerHandle(when, callback, args, self, context)
        handle.order = next(self._order)
        heapq.heappush(self._scheduled, handle)  # type: ignore[attr-defined]
        handle._scheduled = True  # type: ignore[attr-defined]
        return handle

    def create_task(self, coro: Any, **named: Any) -> Any:
        task = super().create_task(coro, **named)
        process = running()
        context = named.get("context")
        if context is not None:
            process = context.get(_RUNNING)
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
        return task


@contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[None]:
    """While entered, the machine's clocks are the loop's."""
    begin = loop.now
    real = time.monotonic, time.time, time.time_ns
    time.monotonic = loop.time
    time.time = lambda: START + loop.now - begin
    time.time_ns = lambda: int((START + loop.now - begin) * 1e9)
    try:
        yield
    finally:
        time.monotonic, time.time, time.time_ns = real


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run to the end in virtual time."""
    loop = VirtualLoop()
    with virtual_time(loop):
        try:
            return loop.run_until_complete(main(loop))
        finally:
            loop.run_until_complete(_end_all(loop))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _end_all(loop: VirtualLoop) -> None:
    mine = asyncio.current_task()
    for _ in range(100):
        tasks = [task for task in asyncio.all_tasks(loop) if task is not mine]
        if not tasks:
            loop.forget()  # a timer of a node that was killed would begin a task while the loop closes, which nobody ends
            return
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10.0)
    raise RuntimeError(f"these tasks do not end: {tasks}")
