"""Threads that run blocking calls for an event loop, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class Worker:
    """One thread, or several that share a queue. Daemons, so that a process which forgets `stop` can end."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run ``call`` on the thread; its result or error arrives on the running loop, also if nobody waits any more."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((call, future))
        return future

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` on the thread, from any thread, without an answer; it must not raise."""
        self._jobs.put((call, None))

    async def stop(self) -> None:
        """Finish what was asked for, then end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        while any(thread.is_alive() for thread in self._threads):
            await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, future = job
            if future is None:
                call()
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                _answer(future, None, error)
            else:
                _answer(future, result, None)
            del job, call, future  # nothing is kept alive while the thread waits


def _answer(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to be told
        future.get_loop().call_soon_threadsafe(_set, future, result, error)


def _set(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
