"""Passwords are checked on a few threads: whose turn it is, and what was found out before.

- Addresses take turns, and so do the user names of one address (`broker.access.fair_queue`).
- An address whose last password was wrong comes after the others for a minute, and never has the last free thread: a flood of
  wrong passwords leaves others at least that one. What is checked for it yields the processor to the others, where the
  system knows of threads' priorities (Linux); Argon2 hashes in a process that takes what is left (`broker.access.apart`).
- What nobody waits for any longer is not checked. Waiting has a time limit; whoever waited in vain is told `Busy`.
- The same user name and password that are being checked already are not checked again: all get the one answer.
- An answer is remembered where the plugin allows it, by a keyed hash that is in memory only: a right password for
  ``remember`` seconds after it was last used, a wrong one for half a minute. Both are bounded in number, apart, so that wrong
  passwords push no right one out.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from broker.access.apart import Apart
from broker.access.fair_queue import FairQueue

THREADS: Final = 2
"""What Argon2 takes by default (64 MiB and four threads of its own, each time) makes more of them no faster."""

_PER_USER = 8  # passwords of one user name at one address that wait
_PER_ADDRESS = 2000  # a fleet behind one address
_PENALTY = 1.0  # seconds until who found no place is told: it would come back at once
_SUSPECTS = 10_000
_SUSPECT_SECONDS = 60.0
_RIGHT = 20_000
_WRONG, _WRONG_SECONDS = 2_000, 30.0


class Busy(Exception):
    """There was no turn in time."""


@dataclass(eq=False)
class _Turn:
    """One check that waits, or runs."""

    address: str
    user: str
    call: Callable[[], Any]
    mark: bytes | None
    login: bool
    suspect: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiting: int = 0
    pushed_out: bool = False


class Logins:
    """Runs what checks passwords. ``patience``: seconds that one may wait for its turn; ``limit``: seconds that it may take.

    ``remember`` is seconds; 0 remembers no answer. ``per_user`` bounds what waits for one user name at one address.
    """

    def __init__(self, *, patience: float, limit: float, remember: float = 0.0, per_user: int = _PER_USER) -> None:
        self._patience = patience
        self._limit = limit
        self._queue: FairQueue[_Turn] = FairQueue(per_user=per_user, per_address=_PER_ADDRESS)
        self._suspects_queue: FairQueue[_Turn] = FairQueue(per_user=per_user, per_address=_PER_ADDRESS)
        self._running = self._running_suspects = 0
        self._threads: ThreadPoolExecutor | None = None
        self._suspects_thread: ThreadPoolExecutor | None = None
        self._apart = Apart()
        self._under_way: dict[bytes, _Turn] = {}
        self._key = secrets.token_bytes(32)
        self._right = _Memory(_RIGHT, remember)
        self._wrong = _Memory(_WRONG, min(remember, _WRONG_SECONDS))
        self._suspects = _Memory(_SUSPECTS, _SUSPECT_SECONDS)

    def close(self) -> None:
        """Give the threads back. What still runs on one ends with the process at the latest."""
        for threads in (self._threads, self._suspects_thread):
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
        self._apart.close()

    def forget(self) -> None:
        """Remember no answer any longer, and join nobody to a check that is under way."""
        self._under_way.clear()
        self._right.clear()
        self._wrong.clear()

    def mark(self, plugin: int, user: str, password: str | None, known_by: str = "") -> bytes:
        """What a user name and password are remembered by, as long as the user is known by the same."""
        said = f"{plugin}:{len(user)}:{user}:{len(known_by)}:{known_by}:{'' if password is None else password}"
        return hmac.digest(self._key, said.encode(errors="surrogateescape"), "sha256")

    def known(self, mark: bytes, address: str) -> bool | None:
        """The answer, where it is remembered."""
        if self._right.holds(mark, renew=True):
            return True
        if self._wrong.holds(mark):
            self._suspects.add(address.encode())
            return False
        return None

    async def ask(
        self, address: str, user: str, call: Callable[[], Any], mark: bytes | None = None, *, login: bool = True
    ) -> Any:
        """What ``call`` answers, on a thread. Without ``mark`` nothing is remembered, nor shared with who asks the same.

        With ``login`` a no counts against the address.

        Raises `Busy`, `TimeoutError`, and what ``call`` raises.
        """
        turn = self._under_way.get(mark) if mark is not None else None
        if turn is None:
            turn = _Turn(address, user, call, mark, login)
            turn.answer.add_done_callback(_heard)
            if mark is not None:
                self._under_way[mark] = turn
            self._put(turn)
            self._next()
        return await self._wait(turn)

    async def _wait(self, turn: _Turn) -> Any:
        turn.waiting += 1
        try:
            try:
                async with asyncio.timeout(self._patience):
                    await turn.begun.wait()
            except TimeoutError:
                raise Busy from None
            if turn.pushed_out:
                await asyncio.sleep(_PENALTY)
            async with asyncio.timeout(self._limit):
                return await asyncio.shield(turn.answer)
        finally:
            turn.waiting -= 1
            if not turn.waiting and not turn.begun.is_set():
                (self._suspects_queue if turn.suspect else self._queue).discard(turn)
                self._settled(turn)

    def _put(self, turn: _Turn) -> None:
        turn.suspect = self._suspected(turn)
        pushed_out = (self._suspects_queue if turn.suspect else self._queue).put(turn)
        if pushed_out is not None:
            self._refuse(pushed_out)

    def _suspected(self, turn: _Turn) -> bool:
        return turn.login and self._suspects.holds(turn.address.encode())

    def _refuse(self, turn: _Turn) -> None:
        self._settled(turn)
        turn.pushed_out = True
        turn.begun.set()
        turn.answer.set_exception(Busy())

    def _settled(self, turn: _Turn) -> None:
        if turn.mark is not None and self._under_way.get(turn.mark) is turn:
            del self._under_way[turn.mark]

    # --- the threads -----------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what may start. A thread that hangs keeps its turn, so that no more work piles up behind it."""
        while self._running < THREADS:
            turn = self._queue.take()
            if turn is not None and self._suspected(turn):
                self._put(turn)  # a password from its address was wrong since it came
                continue
            if turn is None and self._running_suspects < THREADS - 1:
                turn = self._suspects_queue.take()
            if turn is None:
                return
            self._start(turn)

    def _start(self, turn: _Turn) -> None:
        self._running += 1
        self._running_suspects += turn.suspect
        turn.begun.set()
        loop = asyncio.get_running_loop()
        work = self._pool(turn.suspect).submit(turn.call)
        work.add_done_callback(lambda done: _on_loop(loop, lambda: self._done(turn, done)))

    def _pool(self, suspect: bool) -> ThreadPoolExecutor:
        if suspect:
            if self._suspects_thread is None:
                self._suspects_thread = ThreadPoolExecutor(THREADS - 1, "auth suspects", initializer=self._begin_suspects)
            return self._suspects_thread
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "auth")
        return self._threads

    def _begin_suspects(self) -> None:
        _yield_to_others()
        self._apart.use()

    def _done(self, turn: _Turn, done: Future[Any]) -> None:
        self._running -= 1
        self._running_suspects -= turn.suspect
        current = turn.mark is not None and self._under_way.get(turn.mark) is turn  # otherwise `forget` came between
        self._settled(turn)
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            turn.answer.set_exception(error or Busy())
        else:
            self._learn(turn, done.result(), current)
            turn.answer.set_result(done.result())
        self._next()

    def _learn(self, turn: _Turn, answer: Any, current: bool) -> None:
        if answer is None or not turn.login:
            return
        if answer:
            self._suspects.discard(turn.address.encode())
        else:
            self._suspects.add(turn.address.encode())
        if current and turn.mark is not None:
            (self._right if answer else self._wrong).add(turn.mark)


class _Memory:
    """Up to ``size`` keys, each for ``seconds``; the oldest goes first."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._until: dict[bytes, float] = {}

    def add(self, key: bytes) -> None:
        if self._seconds <= 0:
            return
        self._until.pop(key, None)
        if len(self._until) >= self._size:
            del self._until[next(iter(self._until))]
        self._until[key] = time.monotonic() + self._seconds

    def holds(self, key: bytes, *, renew: bool = False) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until <= time.monotonic():
            del self._until[key]
            return False
        if renew:
            self.add(key)
        return True

    def discard(self, key: bytes) -> None:
        self._until.pop(key, None)

    def clear(self) -> None:
        self._until.clear()


def _yield_to_others() -> None:
    """Lower this thread's priority, and that of those which Argon2 starts on it: to a third of the others' share."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 5)


def _heard(answer: asyncio.Future[Any]) -> None:
    """What nobody waits for any more is no error that nobody saw."""
    if not answer.cancelled():
        answer.exception()


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
