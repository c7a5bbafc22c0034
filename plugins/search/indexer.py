"""The indexer: it follows the store's tail and feeds an engine. One task, so that nothing it does can overtake anything else.

- It goes on from the engine's own positions, one for each writer, which the engine commits with or after the messages: a
  crash leaves no hole, and a message that comes again is not added again.
- It is only ever woken (`Indexer.notify`): commits never wait for it. It gathers for a moment, reads a bounded page, lets
  the engine's thread do the work, and then rests for as long as its share of the time allows (`plugins.search.pace`).
- An engine that is a server is given the next pages while it works on one (`plugins.search.feed`). Everything but a page waits
  until none is under way.
- Removals take their place between two pages, because a page that was read before the removal must be
  indexed before it.
- A comparison with the store goes page by page too, between the others.
- A rebuild (`plugins.search.reindex`) goes page by page too, and gets the same removals.
- When the store or the engine is away, it waits with back-off and then goes on where it was.

Over 300 lines: every state that the one task has, and each of its steps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Protocol

from broker.ids import time_of
from plugins.edit_rows import Rows, taken_by
from plugins.follower import Read, next_move, passed
from plugins.search.compare import HIGHEST, Comparison, documents
from plugins.search.engine import EARLIER, Engine, Positions, SearchError, SearchUnavailable
from plugins.search.feed import Feed
from plugins.search.pace import Pace
from plugins.search.recalled import recalled_by
from plugins.search.reindex import Reindex, Report, watched
from plugins.search.service import Differences, Lag
from plugins.search.superseded import edited_by, superseded
from storage.cluster import number_of
from storage.ending import end
from storage.errors import StorageError, StorageUnavailable
from storage.interface import Catalogue, ConversationReader, Tail, Tails
from storage.records import Message

log = logging.getLogger("tideline.search")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PENDING_REMOVALS = 10_000
_LOOKED_AT = 50
"""Recalled messages that are looked for in the store at once."""
_ENDING = 1.0
"""Seconds in which the page under way ends, unless storage did not hear that it should."""


class Source(Tail, Tails, ConversationReader, Rows, Catalogue, Protocol):
    """What of the storage an indexer reads."""


class Indexer:
    """Feeds ``engine`` from ``source``.

    ``batch``, ``page_bytes``: messages of a page at most, and about how large they may be together. ``gather``: seconds to wait
    after a wake-up so that a page is worth its transaction. ``share``: the part of the time, up to 1, that live indexing may
    work; where it ``yields``, less in a burst (`plugins.search.pace`). ``poll``: seconds after which it looks without being
    woken. ``opened`` says that the engine is open already; otherwise it is opened here, with back-off. Without ``follow`` the
    live index is left as it is and only rebuilds are made. ``moved`` is called when a position or the lag is another one.
    ``may``: where an index is shared, whether this is the indexer that writes it now; another one's progress is followed.
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
        may: Callable[[], Awaitable[bool]] | None = None,
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
        self._on_moved = moved
        self._feed: Feed | None = None
        self._known_ends: dict[int, int] = {}
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._moved = asyncio.Event()
        self._notified = 0
        self._went = 0
        """Stored messages that the last page was made of."""
        self._oldest = 0
        self._waits_for = ""
        self._removals: dict[str, int] = {}
        self._reconcile_after: str | None = ""
        self._asked: deque[tuple[asyncio.Future[int], Report]] = deque()
        self._reindex: Reindex | None = None
        self._comparisons: deque[Comparison] = deque()
        self._task: asyncio.Task[None] | None = None
        self._purges = True
        """Something may have been removed that is still in the engine's files: at first, what a crash left there."""
        self._may = may
        self.writes = may is None
        """Whether this indexer writes the index."""
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
            await end([task], again=_ENDING)
            with suppress(asyncio.CancelledError):
                await task

    @property
    def positions(self) -> Positions:
        """How far each writer's messages are searchable; nothing before it has begun."""
        return {} if self._feed is None else self._feed.positions

    def notify(self, messages: int = 1, through: int = 0) -> None:
        """Messages were committed. Costs next to nothing and never waits.

        ``through``: an id up to which all that its writer commits is stored, where the caller knows one. The source may tell it
        a moment later, and a commit of this node need not wait for that.
        """
        if through:
            number = number_of(through)
            self._known_ends[number] = max(through, self._known_ends.get(number, 0))
        if not self._notified:
            self._oldest = _now()
        self._notified += messages
        self._pace.stored(messages)
        self._wake.set()

    def lag(self) -> Lag:
        """How far the index trails the store now."""
        behind = self._notified
        return Lag(behind, max(0, _now() - self._oldest) if behind else 0, max(self.positions.values(), default=0))

    async def wait_indexed(self, message_id: int, timeout: float) -> bool:
        """Wait until the message with this id, and its writer's before it, are searchable; False after ``timeout`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not passed(self.positions, message_id):
                    self.hurry()
                    await next_move(self._moved)
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
        self._check_turn()
        done: asyncio.Future[Differences] = asyncio.get_running_loop().create_future()
        self._comparisons.append(Comparison(self._source, self._engine, done, report))
        self.hurry()
        return await done

    async def reindex(self, report: Report = lambda progress: None) -> int:
        """Build the index again beside the live one, which stays in use and up to date, then swap them.

        Returns how many messages were read; ``report`` is called after each page, and when it begins or ends to wait for what
        is away. Cancelling discards what was built. While one rebuild runs, a second waits for its turn.
        """
        self._check_turn()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with watched(report, lambda: self._waits_for or self._engine.away) as reporting:
            self._asked.append((done, reporting))
            self.hurry()
            return await done

    def _check_turn(self) -> None:
        if not self.writes:
            raise SearchUnavailable("another node of the cluster keeps the search index: ask the one that runs the jobs")

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        try:
            while True:
                try:
                    more = await self._step()
                    wait, self._waits_for = _FIRST_WAIT, ""
                    if not more:
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
            if self._feed is not None:
                await self._feed.end()

    def _failed(self, error: Exception, wait: float) -> None:
        self.errors += 1
        self._waits_for = str(error)
        level = logging.WARNING if wait == _FIRST_WAIT or wait >= _LONGEST_WAIT else logging.DEBUG
        log.log(level, "indexing waits %.1f s: %s", wait, error)

    async def _rest(self) -> None:
        """Sleep until there is work, then for the moment in which more of it gathers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        self._wake.clear()
        if self._feed is not None and (space := self._feed.space):
            await asyncio.sleep(space)
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
        if not self.writes and not await self._turn():
            return False
        if self._feed is None:
            await self._begin()
        started, computed = time.monotonic(), time.process_time()
        more = await self._follow() if self._follows else False
        if self._feed is not None and self._has_other_work():
            await self._feed.settle()
        await self._remove()
        more = await self._reconcile() or more
        more = await self._compare() or more
        more = await self._build() or more
        more = await self._purge() or more
        if more:
            now = time.monotonic()
            indexed = self._went or self._batch
            await self._pause(self._pace.rest(now, now - started, time.process_time() - computed, indexed))
        return more

    def _has_other_work(self) -> bool:
        return bool(self._removals or self._comparisons or self._asked or self._reindex) or self._reconcile_after is not None

    async def _turn(self) -> bool:
        """Whether it is this indexer's turn from now on; else take the other one's positions over."""
        assert self._may is not None
        if await self._may():
            # What the other one has indexed since this one opened the index is read anew.
            self.writes, self._feed, self._opened = True, None, False
            return True
        if not self._opened:
            await self._engine.open()
            self._opened = True
        self._notified = 0
        positions = await self._engine.positions()
        if self._feed is None or positions != self._feed.positions:
            self._follow_on(positions)
        return False

    async def _begin(self) -> None:
        if not self._opened:
            await self._engine.open()
            self._opened = True
        tails = await self._source.tails()
        positions = _of_each_writer(await self._engine.positions(), tails)
        if await self._is_ahead(max(positions.values(), default=0), tails):
            # What comes now may have ids below the old positions.
            positions = {number: min(id, tails.get(number, 0)) for number, id in positions.items()}
            await self._engine.index([], positions)
            self._rebuild_unasked("is ahead of the store, which was replaced")
        elif self._engine.stale:
            self._rebuild_unasked("was made by another tokeniser")
        self._follow_on(positions)
        if any(end > positions.get(number, 0) for number, end in tails.items()):
            self.notify()

    async def _is_ahead(self, position: int, tails: Positions) -> bool:
        """Whether the store has nothing as new as what was indexed. Only a tail that says so may be a moment old."""
        if position <= max([await self._source.last_id(), *tails.values()]):
            return False
        return not await self._source.read_tail(position - 1, 1)

    def _rebuild_unasked(self, reason: str) -> None:
        if not self._follows:
            return  # that it is rebuilt is why we are here
        log.warning("the search index %s: rebuilding it", reason)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # already logged
        self._asked.append((done, lambda progress: None))

    def _follow_on(self, positions: Positions) -> None:
        """Go on behind other positions, with no page under way, and tell who waits for them."""
        self._feed = Feed(self._source, self._engine, positions, self._known_ends, taken=self._taken, ended=self._wake.set)
        self._tell_moved()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
        self._on_moved()

    async def _follow(self) -> bool:
        """Index the next page of the writers' tails."""
        assert self._feed is not None
        await self._feed.room()
        notified = self._notified
        page = await self._feed.read(self._batch, self._page_bytes)
        messages = page.read.messages
        self._went = len(messages) + page.read.passed
        if not page.read.ends:
            gone = {*await self._recalled(messages), *await self._superseded(messages)}
            # Before the positions pass those that say so, or a crash between the two would leave it for ever.
            await self._delete(gone)
            shown = [message for message in messages if message.id not in gone]
            self._feed.give(page, await asyncio.to_thread(documents, shown))
            self._wake.set()  # only an empty page is the end
            await self._feed.room()
        elif self._feed.idle:  # else looked at again behind those under way
            if self._feed.pass_over(page):
                self._tell_moved()
            # Whatever was announced before a page that came back empty is in the index.
            self._notified -= notified
            self._oldest = _now()
            self._on_moved()
        return self._feed.more or len(messages) == self._batch

    def _taken(self, read: Read) -> None:
        """The engine has a page."""
        self._notified = max(1, self._notified - len(read.messages) - read.passed)
        self._oldest = read.messages[-1].time if read.messages else time_of(max(read.positions.values()))
        self._tell_moved()

    async def _recalled(self, page: list[Message]) -> list[int]:
        """What the messages of a page have recalled: the store has it no more, or without its content."""
        ids: list[int] = []
        for message in page:
            if message.properties and (named := recalled_by(message)):
                ids += [*named, *await taken_by(self._source, message.topic, message.id)]
        found: list[int] = []
        for start in range(0, len(ids), _LOOKED_AT):
            some = ids[start : start + _LOOKED_AT]
            kept = {message.id for message in await self._source.read_messages(some) if not message.recalled}
            found += [one for one in some if one not in kept]
        return found

    async def _superseded(self, page: list[Message]) -> list[int]:
        """What the messages of a page have edited."""
        ids = sorted(edited_by(page))
        found: list[int] = []
        for start in range(0, len(ids), _LOOKED_AT):
            found += await superseded(self._source, ids[start : start + _LOOKED_AT])
        return found

    async def _delete(self, gone: Collection[int]) -> None:
        if gone:
            assert self._feed is not None
            await self._feed.settle()
            await self._engine.delete(gone)
            if self._reindex is not None:
                await self._reindex.delete(gone)
            self._purges = True

    async def _purge(self) -> bool:
        """Have what was removed leave the engine's files, a step at a time; whether there is more."""
        if self._purges:
            self._purges = await self._engine.purge()
        return self._purges

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
        work = self._comparisons[0]
        try:
            more = await work.step(self.positions, self._batch)
            self._purges = True  # of what it may have removed
            return more or len(self._comparisons) > 1
        except (SearchUnavailable, StorageUnavailable):
            raise  # goes on with the same page
        except Exception as error:
            if not work.done.done():
                work.done.set_exception(error)
            raise

    async def _build(self) -> bool:
        """One page of the rebuild that was asked for; whether there is more."""
        work = self._reindex or await self._next_rebuild()
        if work is None:
            return False
        if work.done.done():  # nobody waits for it any more
            await self._abandon()
            return False
        try:
            if await work.step(self._batch, self._page_bytes):
                return True
        except (SearchUnavailable, StorageUnavailable):
            raise  # goes on with the same page
        except Exception as error:
            await self._abandon(error)
            raise
        self._follow_on(work.positions)
        self._reindex, self._purges = None, True
        work.finish()
        return bool(self._asked)

    async def _next_rebuild(self) -> Reindex | None:
        while self._asked and self._asked[0][0].done():
            self._asked.popleft()
        if not self._asked:
            return None
        rebuild = await self._engine.rebuild()
        self._reindex = Reindex(self._source, self._known_ends, rebuild, self._superseded, *self._asked.popleft())
        return self._reindex

    async def _abandon(self, error: BaseException | None = None) -> None:
        """Discard the rebuild under way and tell who waits for it."""
        work, self._reindex = self._reindex, None
        if work is not None:
            await work.abandon(error)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _of_each_writer(positions: Positions, tails: Positions) -> Positions:
    """What an engine told. An earlier version's one id for all is that of the one writer there is; of several, any may have
    been passed over, so all is read again, which adds nothing twice."""
    if EARLIER not in positions:
        return positions
    return dict.fromkeys(tails, positions[EARLIER]) if len(tails) == 1 else {}
