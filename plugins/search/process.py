"""The indexer as a process of its own, as the broker sees it: started, watched, asked, and started again when it dies.

What it must not forget is in the index (its position) or in the store (what was removed is found by comparing, at every start),
so one that was killed is simply replaced. A rebuild or a comparison that was under way begins anew.

Over 300 lines: one process, from its start to its end, and what it is asked.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from broker.own_process import own_command, own_environment
from plugins.follower import next_move, passed
from plugins.search.engine import Positions, SearchError
from plugins.search.reindex import Progress, watched
from plugins.search.service import Differences, Lag

log = logging.getLogger("tideline.search")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LIVED = 60.0
"""Seconds after which a process that dies is no longer taken for one that cannot start."""
_ENDING = 3.0
"""Seconds that a process may take for the page under way when it is to stop."""
_UNREAD = 64 << 10


class _Asked(NamedTuple):
    """Something long that a process is to do."""

    kind: str
    report: Callable[[list[Any]], None]
    done: asyncio.Future[Any]


class IndexerProcess:
    """Has the methods of `plugins.search.indexer.Indexer` that others call, and its promises.

    ``settings`` is what `worker` begins with: storage, engine, path, batch, share, poll. ``gather``: seconds between two
    wake-ups.
    """

    def __init__(self, settings: dict[str, Any], *, gather: float = 0.05) -> None:
        self._settings = settings
        self._gather = gather
        self._process: asyncio.subprocess.Process | None = None
        self._open = False
        self._waits_for = ""
        self._supervisor: asyncio.Task[None] | None = None
        self._positions: Positions = {}
        self._behind = 0
        self._oldest = 0
        self._committed = 0
        self._through = 0
        self._sent = 0
        self._heard = 0
        self._unheard_since = 0
        self._flushing: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._waiting = 0
        self._compare = False
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._own_errors = self._their_errors = 0

    @property
    def errors(self) -> int:
        """How often the store or the index could not be reached or failed, and the process died."""
        return self._own_errors + self._their_errors

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process is not None else None

    # --- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to index, in a process that a task of this loop watches."""
        if self._supervisor is None:
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="indexer")

    async def stop(self) -> None:
        """End after the page under way; a rebuild under way is discarded. May be called twice."""
        supervisor, self._supervisor = self._supervisor, None
        if self._flushing is not None:
            self._flushing.cancel()
        if supervisor is not None:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor
        for asked in self._asked.values():
            asked.done.cancel()

    async def _supervise(self) -> None:
        wait = _FIRST_WAIT
        while True:
            began = time.monotonic()
            try:
                ended = await self._live()
            except OSError as error:
                program, *_ = own_command("plugins.search.worker")
                ended = f"cannot be started: {program}: {error.strerror}"
            except Exception:
                log.exception("what the search indexer says cannot be read")
                ended = "was ended"
            self._own_errors += 1
            wait = _FIRST_WAIT if time.monotonic() - began > _LIVED else wait
            log.warning("the search indexer %s: another begins in %.1f s", ended, wait)
            self._waits_for = self._waits_for or f"the search indexer {ended}"
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 2)

    async def _live(self) -> str:
        """One process from its start to its end; how it ended."""
        process = await asyncio.create_subprocess_exec(
            *own_command("plugins.search.worker"),
            env=own_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # a ^C on the broker's terminal is not for this one, not even before it can ignore it
        )
        self._process, self._open = process, False
        self._committed -= self._heard  # what the one before has heard of is in the store for this one to find
        self._sent = self._heard = 0
        assert process.stdout is not None
        try:
            self._tell(self._settings)
            while line := await process.stdout.readline():
                self._handle(*json.loads(line))
            code = await process.wait()
        finally:
            self._open = False
            await self._end(process)
            self._process = None
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """End of input is the word to stop; it must not outlive us by much, as it holds the index's lock."""
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_ENDING):
                await self._drained(process)
        except TimeoutError:
            log.warning("the search indexer does not end, and is killed, which loses nothing")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _drained(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while await process.stdout.read(1 << 16):
            pass
        await process.wait()

    # --- lines ---------------------------------------------------------------------------------------------------------

    def _tell(self, value: object) -> None:
        """A line for the process, if there is one: what it is told before it is open, it would not need."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(json.dumps(value).encode() + b"\n")

    def _ask(self, kind: str, *values: object) -> bool:
        """Whether it could be asked: not before it is open, and not while it leaves too much unread."""
        process = self._process
        if not self._open or process is None or process.stdin is None:
            return False
        if process.stdin.transport.get_write_buffer_size() > _UNREAD:
            return False
        self._tell([kind, *values])
        return True

    def _handle(self, kind: str, *values: Any) -> None:
        """A line of the process."""
        match kind:
            case "at":
                self._at(*values)
            case "progress":
                number, progress = values
                if number in self._asked:
                    self._asked[number].report(progress)
            case "done" | "failed":
                self._answered(kind == "done", *values)
            case "open":
                self._open, self._compare, self._waits_for = True, False, ""
                for number, asked in self._asked.items():
                    self._ask(asked.kind, number)
                self._flush()
            case "waits":
                (self._waits_for,) = values
            case "log":
                log.log(*values)
            case "unusable":
                log.error("the search index cannot be used: %s", *values)
                (self._waits_for,) = values

    def _at(self, positions: list[tuple[int, int]], behind: int, oldest: int, heard: int, errors: int) -> None:
        if heard > self._heard:
            self._unheard_since = _now()
        self._positions, self._behind, self._oldest, self._heard = dict(positions), behind, oldest, heard
        self._their_errors = errors
        self._moved.set()
        self._moved = asyncio.Event()
        if self._waiting:
            self._ask("hurry")
        if self._compare:
            self.reconcile()

    def _answered(self, well: bool, number: int, result: Any) -> None:
        asked = self._asked.pop(number, None)
        if asked is None or asked.done.done():
            return
        if well:
            asked.done.set_result(result)
        else:
            asked.done.set_exception(SearchError(str(result)))

    # --- from outside --------------------------------------------------------------------------------------------------

    def notify(self, messages: int = 1, through: int = 0) -> None:
        """As `Indexer.notify`. The process is told once per ``gather``, and when it has heard."""
        if self._committed == self._heard:
            self._unheard_since = _now()
        self._committed += messages
        self._through = max(self._through, through)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(self._gather, self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._committed > self._sent:
            if self._sent == self._heard and self._ask("committed", self._committed, self._through):
                self._sent = self._committed
            elif self._open:
                self._flushing = asyncio.get_running_loop().call_later(self._gather, self._flush)

    def lag(self) -> Lag:
        """How far the index trails the store now."""
        unheard = self._committed - self._heard
        messages = self._behind + unheard
        since = self._oldest if self._behind else self._unheard_since
        return Lag(messages, max(0, _now() - since) if messages else 0, max(self._positions.values(), default=0))

    async def wait_indexed(self, message_id: int, timeout: float) -> bool:
        """As `Indexer.wait_indexed`."""
        self._waiting += 1
        try:
            self._flush()
            async with asyncio.timeout(timeout):
                while not passed(self._positions, message_id):
                    self._ask("hurry")
                    await next_move(self._moved)
                return True
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1

    def forget(self, topic: str, before_seq: int) -> None:
        """A conversation's messages with seq < ``before_seq`` are gone from the store: take them out of the index soon."""
        if not self._ask("forget", topic, before_seq):
            self.reconcile()

    def reconcile(self) -> None:
        """Compare every conversation of the index with the store, soon. It is done at every start."""
        self._compare = not self._ask("reconcile")

    async def reindex(self, report: Callable[[Progress], None] = lambda progress: None) -> int:
        """Build the index again beside the live one, which stays in use and up to date, then swap them.

        As `Indexer.reindex`; also over the death of the process, after which it begins anew.
        """
        async with watched(report, lambda: self._waits_for) as reporting:
            return int(await self._answer("reindex", lambda progress: reporting(Progress(*progress))))

    async def compare(self, report: Callable[[Differences], None] = lambda found: None) -> Differences:
        """Compare every message of the store with the index and repair what differs; as `Indexer.compare`, over deaths too."""
        return Differences(*await self._answer("compare", lambda found: report(Differences(*found))))

    async def _answer(self, kind: str, report: Callable[[list[Any]], None]) -> Any:
        """Have the process do something long; cancelling calls it off."""
        number = next(self._numbers)
        asked = self._asked[number] = _Asked(kind, report, asyncio.get_running_loop().create_future())
        self._ask(kind, number)
        try:
            return await asked.done
        finally:
            if self._asked.pop(number, None) is not None:
                self._ask("cancel", number)


def _now() -> int:
    return time.time_ns() // 1_000_000
