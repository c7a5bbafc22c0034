"""Threads that run blocking calls for an event loop, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Answer(Generic[T]):
    """What a call on a thread comes to: awaited by one task, on the loop that asked.

    A future tells its task through one more callback of the loop, and so a round of the loop later. This one has the task go on
    from the callback that brings the answer.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_done", "_error", "_loop", "_value")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False  # with `get_loop`, `add_done_callback`, `result` and `cancel` what a task asks of
        self._loop = loop
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it arrives."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Have the task that awaits this told."""
        self._callback, self._context = callback, context
        if self._done:
            self._loop.call_soon(callback, self, context=context)

    def cancel(self, msg: str | None = None) -> bool:
        """Nobody waits any more. The call is made all the same; False where it has been."""
        if self._done:
            return False
        self._done, self._error = True, asyncio.CancelledError()
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> T:
        """What the call returned, or what it raised."""
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def arrived(self, value: T | None, error: BaseException | None) -> None:
        """A callback of the loop: the call was made."""
        if self._done:
            return  # cancelled
        self._done, self._value, self._error = True, value, error
        if self._callback is not None and self._context is not None:
            self._context.run(self._callback, self)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()


_Job = tuple[Callable[[], Any], "Answer[Any] | None"]


class Worker:
    """One thread, or several that share a queue, for the running loop. Daemons: a process that forgets `stop` can end."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._loop = asyncio.get_running_loop()  # to ask for it is a system call, of each call's
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def run(self, call: Callable[[], T]) -> Answer[T]:
        """Run ``call`` on the thread; its result or error arrives on the loop, also if nobody waits any more."""
        answer: Answer[T] = Answer(self._loop)
        self._jobs.put((call, answer))
        return answer

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
            call, answer = job
            if answer is None:
                call()
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                _tell(answer, None, error)
            else:
                _tell(answer, result, None)
            del job, call, answer  # nothing is kept alive while the thread waits


def _tell(answer: Answer[Any], result: object, error: BaseException | None) -> None:
    try:
        answer.get_loop().call_soon_threadsafe(answer.arrived, result, error)
    except RuntimeError:
        return  # the loop was closed meanwhile: nobody is left to be told
