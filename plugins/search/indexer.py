"""The indexer: it follows the store's tail and feeds an engine. One task, so that nothing it does can overtake anything else.

- It goes on from the engine's own position, which the engine commits with or after the messages: a crash leaves no hole,
  and a message that comes again is not added again.
- It is only ever woken (`Indexer.notify`): commits never wait for it. It gathers for a moment, reads a bounded page, lets
  the engine's thread do the work, and then rests for as long as its share of the time allows (`plugins.search.pace`).
- Removals take their place between two pages, because a page that was read before the removal must be
  indexed before it.
- A comparison with the store goes page by page too, between the others.
- A rebuild (`plugins.search.reindex`) goes page by page too, and gets the same removals.
- When the store or the engine is away, it waits with back-off and then goes on where it was.

One idea in more than 300 lines: every state that the one task has, and each of its steps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from plugins.search.compare import HIGHEST, Comparison, documents
from plugins.search.engine import Engine, SearchError, SearchUnavailable
from plugins.search.pace import Pace
from plugins.search.reindex import Reindex, Report
from plugins.search.service import Differences, Lag
from storage.errors import StorageError, StorageUnavailable
from storage.interface import Catalogue, ConversationReader, Tail
from storage.records import Message

log = logging.getLogger("tideline.search")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PENDING_REMOVALS = 10_000


class Source(Tail, ConversationReader, Catalogue, Protocol):
    """What of the storage an indexer reads."""


class Indexer:
    """Feeds ``engine`` from ``source``.

    ``batch``, ``page_bytes``: messages of a page at most, and about how large they may be together. ``gather``: seconds to wait
    after a wake-up so that a page is worth its transaction. ``share``: the part of the time, up to 1, that live indexing may
    work; where it ``yields``, less in a burst (`plugins.search.pace`). ``poll``: seconds after which it looks without being
    woken. ``opened`` says that the engine is open already; otherwise it is opened here, with back-off. Without ``follow`` the
    live index is left as it is and only rebuilds are made. ``moved`` is called when the position or the lag is another one.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        *,
        batch: int = 500,
        page_bytes: int = 1 << 20,
        gather: float = 0.05,
        share: float = 0.5,
        yields: bool = True,
        poll: float = 2.0,
        opened: bool = True,
        follow: bool = True,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._engine = engine
        self._batch = batch
        self._page_bytes = page_bytes
        self._gather = gather
        self._pace = Pace(share, yields=yields)
        self._poll = poll
        self._opened = opened
        self._follows = follow
        self._told_moved = moved
        self._position: int | None = None
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._moved = asyncio.Event()
        self._notified = 0
        self._oldest = 0
        self._removals: dict[str, int] = {}
        self._reconcile_after: str | None = ""
        self._asked: deque[tuple[asyncio.Future[int], Report]] = deque()
        self._reindex: Reindex | None = None
        self._comparisons: deque[Comparison] = deque()
        self._task: asyncio.Task[None] | None = None
        self.errors = 0
        """How often the store or the engine could not be reached, or failed."""

    # --- from outside ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to index, in a task of this loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="indexer")

    async def stop(self) -> None:
        """End after the page under way; a rebuild under way is discarded. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def notify(self, messages: int = 1) -> None:
        """Messages were committed. Costs next to nothing and never waits."""
        if not self._notified:
            self._oldest = _now()
        self._notified += messages
        self._pace.stored(messages)
        self._wake.set()

    def lag(self) -> Lag:
        """How far the index trails the store now."""
        behind = self._notified
        return Lag(behind, max(0, _now() - self._oldest) if behind else 0, self._position or 0)

    async def wait_indexed(self, message_id: int, timeout: float) -> bool:
        """Wait until the message with this id, and everything before it, is searchable; False after ``timeout`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._position is None or self._position < message_id:
                    self.hurry()
                    await self._moved.wait()
                return True
        return False

    def hurry(self) -> None:
        """Somebody waits: the next page comes at once."""
        self._wake.set()
        self._hurry.set()

    def forget(self, topic: str, before_seq: int) -> None:
        """A conversation's messages with seq < ``before_seq`` are gone from the store: take them out of the index soon.

        Call it after they are gone. What a crash makes it miss, or an engine that is away for long, `reconcile` finds.
        """
        if topic not in self._removals and len(self._removals) >= _PENDING_REMOVALS:
            self.reconcile()
            return
        self._removals[topic] = max(before_seq, self._removals.get(topic, 0))
        self._wake.set()

    def reconcile(self) -> None:
        """Compare every conversation of the index with the store, soon, and forget what the store has no longer.

        It is done at every start.
        """
        self._reconcile_after = ""
        self._wake.set()

    async def compare(self, report: Callable[[Differences], None] = lambda found: None) -> Differences:
        """Compare every message of the store with the index and repair what differs, in both directions.

        Returns what was found; ``report`` is called after each page. Cancelling ends it; what was repaired stays so.
        """
        done: asyncio.Future[Differences] = asyncio.get_running_loop().create_future()
        self._comparisons.append(Comparison(self._source, self._engine, done, report))
        self.hurry()
        return await done

    async def reindex(self, report: Report = lambda progress: None) -> int:
        """Build the index again beside the live one, which stays in use and up to date, then swap them.

        Returns how many messages were read; ``report`` is called after each page. Cancelling discards what was built. While one
        rebuild runs, a second waits for its turn.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked.append((done, report))
        self.hurry()
        return await done

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        try:
            while True:
                try:
                    if await self._step():
                        wait = _FIRST_WAIT
                        continue
                    wait = _FIRST_WAIT
                    await self._rest()
                except (SearchError, StorageError) as error:
                    self._failed(error, wait)
                    await asyncio.sleep(wait)
                    wait = min(_LONGEST_WAIT, wait * 2)
                except Exception:
                    self.errors += 1
                    log.exception("indexing failed, trying again in %.0f s", _LONGEST_WAIT)
                    await asyncio.sleep(_LONGEST_WAIT)
        finally:
            for done, _ in self._asked:
                done.cancel()
            for comparison in self._comparisons:
                comparison.done.cancel()
            await self._abandon()

    def _failed(self, error: Exception, wait: float) -> None:
        self.errors += 1
        level = logging.WARNING if wait == _FIRST_WAIT or wait >= _LONGEST_WAIT else logging.DEBUG
        log.log(level, "indexing waits %.1f s: %s", wait, error)

    async def _rest(self) -> None:
        """Sleep until there is work, then for the moment in which more of it gathers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        self._wake.clear()
        await self._pause(self._gather)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless somebody waits for a message."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurry.wait()
        self._hurry.clear()

    async def _step(self) -> bool:
        """One page of each thing that is to be done; whether there is more."""
        if self._position is None:
            await self._begin()
        started = time.monotonic()
        more = await self._follow() if self._follows else False
        await self._remove()
        more = await self._reconcile() or more
        more = await self._compare() or more
        more = await self._build() or more
        if more:
            now = time.monotonic()
            await self._pause(self._pace.rest(now, now - started, self._batch))
        return more

    async def _begin(self) -> None:
        if not self._opened:
            await self._engine.open()
            self._opened = True
        position, last = await self._engine.position(), await self._source.last_id()
        if last < position:
            await self._engine.index([], last)  # what comes now may have ids below the old position
            position = last
            self._rebuild_unasked("is ahead of the store, which was replaced")
        elif self._engine.stale:
            self._rebuild_unasked("was made by another tokeniser")
        self._move(position)
        if last > position:
            self.notify()

    def _rebuild_unasked(self, reason: str) -> None:
        if not self._follows:
            return  # that it is rebuilt is why we are here
        log.warning("the search index %s: rebuilding it", reason)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # already logged
        self._asked.append((done, lambda progress: None))

    def _move(self, position: int) -> None:
        """Take the position over, and tell who waits for it."""
        self._position = position
        self._moved.set()
        self._moved = asyncio.Event()
        self._told_moved()

    async def _follow(self) -> bool:
        """Index the next page of the tail."""
        assert self._position is not None
        notified = self._notified
        page = await self._source.read_tail(self._position, self._batch, self._page_bytes)
        if page:
            await self._engine.index(await asyncio.to_thread(documents, page), page[-1].id)
            self._move(page[-1].id)
            self._wake.set()  # a page may end early for its bytes: only an empty one is the end
        self._count(page, notified)
        return len(page) == self._batch

    def _count(self, page: list[Message], notified: int) -> None:
        """Keep the lag. Whatever was announced before a page that came back empty is in the index."""
        if page:
            self._notified = max(1, self._notified - len(page))
            self._oldest = page[-1].time
        else:
            self._notified -= notified
            self._oldest = _now()
            self._told_moved()

    async def _remove(self) -> None:
        while self._removals:
            topic, before_seq = next(iter(self._removals.items()))
            await self._forget(topic, before_seq)
            if self._removals.get(topic) == before_seq:
                del self._removals[topic]

    async def _forget(self, topic: str, before_seq: int) -> None:
        await self._engine.forget(topic, before_seq)
        if self._reindex is not None:
            await self._reindex.forget(topic, before_seq)

    async def _reconcile(self) -> bool:
        """Compare some conversations with the store; whether there are more."""
        if self._reconcile_after is None:
            return False
        after = self._reconcile_after
        topics = await self._engine.topics(after, 100)
        for topic in topics:
            first, last = await self._source.conversation_bounds(topic)
            if first > 1 or not last:  # without a last one, the store has never had it: it was replaced
                await self._forget(topic, first if last else HIGHEST)
        if self._reconcile_after == after:
            self._reconcile_after = topics[-1] if topics else None
        return self._reconcile_after is not None

    async def _compare(self) -> bool:
        """One page of the comparison that was asked for; whether there is more."""
        while self._comparisons and self._comparisons[0].done.done():
            self._comparisons.popleft()
        if not self._comparisons:
            return False
        assert self._position is not None
        work = self._comparisons[0]
        try:
            return await work.step(self._position, self._batch) or len(self._comparisons) > 1
        except (SearchUnavailable, StorageUnavailable):
            raise  # goes on with the same page
        except Exception as error:
            if not work.done.done():
                work.done.set_exception(error)
            raise

    async def _build(self) -> bool:
        """One page of the rebuild that was asked for; whether there is more."""
        assert self._position is not None
        work = self._reindex or await self._next_rebuild()
        if work is None:
            return False
        if work.done.done():  # nobody waits for it any more
            await self._abandon()
            return False
        try:
            if await work.step(self._position, self._batch, self._page_bytes):
                return True
        except (SearchUnavailable, StorageUnavailable):
            raise  # goes on with the same page
        except Exception as error:
            await self._abandon(error)
            raise
        self._move(max(work.position, self._position))
        self._reindex = None
        work.finish()
        return bool(self._asked)

    async def _next_rebuild(self) -> Reindex | None:
        while self._asked and self._asked[0][0].done():
            self._asked.popleft()
        if not self._asked:
            return None
        rebuild = await self._engine.rebuild()
        self._reindex = Reindex(self._source, rebuild, *self._asked.popleft())
        return self._reindex

    async def _abandon(self, error: BaseException | None = None) -> None:
        """Discard the rebuild under way and tell who waits for it."""
        work, self._reindex = self._reindex, None
        if work is not None:
            await work.abandon(error)


def _now() -> int:
    return time.time_ns() // 1_000_000
