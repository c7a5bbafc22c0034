"""The process that indexes into files of this machine: ``python -m plugins.search.worker``, of `IndexerProcess`.

Turning text into tokens is work for Python, and within the broker's process it would take turns with the event loop. Here it
has an interpreter of its own, which reads the store beside the broker and is the index's only writer.

Both sides write JSON, a value a line. In: first the settings, then what `IndexerProcess` asks. Out: where the index stands,
how rebuilds go, and log records. The process ends when its input does: with the broker, whatever ends that.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from plugins.search.engine import Engine, SearchError, SearchUnavailable
from plugins.search.indexer import Indexer
from plugins.search.own_files import own_engine
from plugins.search.write_lock import BeingWritten
from storage.errors import StorageError, StorageUnavailable
from storage.factory import open_url
from storage.interface import Storage

log = logging.getLogger("tideline.search")

_NICE = 10
"""A tenth of the processor is left to it where there is one, and the broker wants all of it. Where there are two, a lower
priority wins publishing nothing, as the broker uses one: the indexer waits on that one, and the other idles."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_GARBAGE_AFTER = 20_000
"""New objects after which Python looks for cycles, of which indexing makes none; with its own 700 it looked all the time."""


class TellBroker(logging.Handler):
    """Log records become lines for the broker's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        tell("log", record.levelno, self.format(record))


def tell(kind: str, *values: object) -> None:
    """A line for the broker. Blocks while the broker does not read; a broker that is gone ends the process."""
    try:
        sys.stdout.write(json.dumps([kind, *values]) + "\n")
        sys.stdout.flush()
    except OSError:
        os._exit(0)


class Worker:
    """An indexer that does what the lines say."""

    def __init__(self, storage: Storage, engine: Engine, settings: dict[str, Any]) -> None:
        measures = {name: settings[name] for name in ("batch", "share", "poll")}
        self._indexer = Indexer(storage, engine, gather=0.0, moved=self._moved, **measures)
        self._heard = 0
        self._reported: tuple[object, ...] = ()
        self._working: dict[int, asyncio.Task[None]] = {}

    async def run(self, first: asyncio.Future[bytes], lines: asyncio.StreamReader) -> None:
        """Index until the input ends."""
        self._indexer.start()
        line = await first
        while line:
            kind, *values = json.loads(line)
            getattr(self, f"_{kind}")(*values)
            line = await lines.readline()
        for task in self._working.values():
            task.cancel()
        await self._indexer.stop()

    def _moved(self) -> None:
        lag = self._indexer.lag()
        oldest = time.time_ns() // 1_000_000 - lag.milliseconds if lag.messages else 0
        report = (list(self._indexer.positions.items()), lag.messages, oldest, self._heard, self._indexer.errors)
        if report != self._reported:
            self._reported = report
            tell("at", *report)

    # --- what may be asked -------------------------------------------------------------------------------------------

    def _committed(self, messages: int, through: int) -> None:
        """So many messages were committed since the process was started, and all of the broker's own up to an id."""
        self._indexer.notify(messages - self._heard, through)
        self._heard = messages
        self._moved()

    def _hurry(self) -> None:
        self._indexer.hurry()

    def _forget(self, topic: str, before_seq: int) -> None:
        self._indexer.forget(topic, before_seq)

    def _reconcile(self) -> None:
        self._indexer.reconcile()

    def _reindex(self, number: int) -> None:
        self._begin(number, self._indexer.reindex(lambda progress: tell("progress", number, astuple(progress))))

    def _compare(self, number: int) -> None:
        async def compare() -> tuple[int, ...]:
            return astuple(await self._indexer.compare(lambda found: tell("progress", number, astuple(found))))

        self._begin(number, compare())

    def _cancel(self, number: int) -> None:
        if task := self._working.get(number):
            task.cancel()

    def _begin(self, number: int, work: Coroutine[Any, Any, object]) -> None:
        self._working[number] = asyncio.ensure_future(self._to_its_end(number, work))

    async def _to_its_end(self, number: int, work: Coroutine[Any, Any, object]) -> None:
        try:
            tell("done", number, await work)
        except Exception as error:  # noqa: BLE001 - told to who asked for it
            tell("failed", number, str(error) or type(error).__name__)
        finally:
            del self._working[number]


async def _opened(storage: Storage, engine: Engine) -> None:
    """Open both, each as often as it takes while it is away."""
    await _open(storage.open)
    await _open(engine.open)


async def _open(attempt: Callable[[], Awaitable[None]]) -> None:
    wait, logged = _FIRST_WAIT, ""
    while True:
        try:
            await attempt()
            return
        except BeingWritten as error:  # by another worker of this machine: this one follows it as soon as that ends
            wait, why = _FIRST_WAIT, str(error)
            if why != logged:
                log.info("indexing begins once that ends: %s", why)
        except (SearchUnavailable, StorageUnavailable) as error:
            why = str(error)
            log.warning("indexing cannot begin yet, trying again in %.1f s: %s", wait, why)
        tell("waits", why)
        logged = why
        await asyncio.sleep(wait)
        wait = min(_LONGEST_WAIT, wait * 2)


def niceness() -> int:
    """By how much its priority is lower than the broker's."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return _NICE if processors == 1 else 0


async def main() -> None:
    """Read the settings, then index for as long as the input lasts."""
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    settings = json.loads(await lines.readline())
    storage = open_url(settings["storage"], read_only=True)
    try:
        engine = own_engine(settings.get("engine", "embedded"), settings["path"], storage)
    except SearchError as error:
        tell("unusable", str(error))
        return
    opening = asyncio.ensure_future(_opened(storage, engine))
    first = asyncio.ensure_future(lines.readline())
    try:
        await asyncio.wait({opening, first}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():  # nothing is asked before it is open: this was the end
            await opening
            tell("open")
            await Worker(storage, engine, settings).run(first, lines)
    except (SearchError, StorageError) as error:
        tell("unusable", str(error))
    finally:
        opening.cancel()
        with suppress(asyncio.CancelledError, SearchError, StorageError):
            await opening
        await engine.close()
        await storage.close()


if __name__ == "__main__":
    # The broker says when to stop. What a terminal or a supervisor sends to both must not end this one first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(niceness())
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER)
    logging.basicConfig(level=logging.INFO, handlers=[TellBroker()], format="%(message)s")
    asyncio.run(main())
