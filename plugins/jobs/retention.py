"""Retention: removing the old end of conversations, by age, by count, and by bytes in all (`plugins.jobs.room`).

What a living device has not acknowledged is spared, with everything behind it in its conversation, unless the rule says
otherwise. A retained message stays retained. Messages are removed some hundreds at a time, in a transaction of their own that
moves the first kept sequence with them, so that a run may end anywhere, killed or told to.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from broker.amqtt import Services, Undecided
from broker.ids import time_of
from plugins.jobs.config import Retention, Rule
from plugins.jobs.room import Room
from plugins.jobs.waiting import Cut, Waiting
from plugins.jobs.work import SAVED_WITHIN, Work
from plugins.search.service import Search, SearchUnavailable
from storage.errors import StorageUnavailable

log = logging.getLogger("tideline.jobs")

STEP = 500
"""Messages removed at once: a publisher waits for one such step at most."""
_TOGETHER = 20_000
"""Conversations for which the inboxes are read once."""
_NAMED = 5
_AHEAD = 60_000
"""Milliseconds that a message may be stamped ahead of the clock before the clock is taken to have been wrong."""


class RetentionJob:
    """See the module."""

    name = "retention"
    about = "removes messages that are older, or more, than the rules keep"

    def __init__(self, server: Services, config: Retention) -> None:
        self._server = server
        self._config = config

    async def run(self, work: Work) -> None:
        """Apply the rules to every conversation."""
        work.detail |= {"conversations": 0, "removed": 0, "spared": 0, "unacknowledged": 0}
        if not self._config.removes:
            work.detail["note"] = "no rule removes anything"
            return
        with suppress(Undecided, StorageUnavailable):  # as on a full disk, which this may make room on: the rest is spared
            await self._server.save_offsets(SAVED_WITHIN)
        lost: list[str] = []
        try:
            if any(rule.removes for rule in self._config.rules):
                async with aclosing(self._chunks(work)) as chunks:
                    async for cuts in chunks:
                        await self._apply(cuts, work, lost)
            if self._config.bounded:
                await self._make_room(work, lost)
        finally:
            if lost:
                names, more = ", ".join(map(repr, lost[:_NAMED])), " and others" if len(lost) > _NAMED else ""
                log.warning(
                    "retention removed messages that %d inbox entries still waited for, as even_unacknowledged says: %s%s",
                    work.detail["unacknowledged"],
                    names,
                    more,
                )

    async def _make_room(self, work: Work, lost: list[str]) -> None:
        """Remove the oldest messages until the limits in bytes hold, or what is left is spared."""
        room, after = Room(self._server, self._config), 0
        if not room.measured:
            self._no_limit(work, "this storage cannot tell how much there is: max_bytes and keep_free change nothing")
            return
        if self._config.keep_free is not None and not await room.tells_free():
            self._no_limit(
                work, "this storage does not tell how much of its disk is free: keep_free changes nothing, use max_bytes"
            )
        excess = await room.excess()
        looked: set[str] = set()
        while excess > 0:
            work.what = "looking for the oldest messages"
            cuts, after = await room.oldest(after, excess, work)
            if not cuts:
                break
            if not any(rule.removes for rule in self._config.rules):  # else all of them are counted already
                work.count("conversations", len(cuts.keys() - looked))
                looked |= cuts.keys()
            removed = work.detail["removed"]
            await self._apply(cuts, work, lost)
            before, excess = excess, await room.excess()
            if excess >= before and work.detail["removed"] > removed:
                break  # what is freed shows late here: no more goes for it before the next run
        if excess > 0:
            work.detail["over_bytes"] = excess
            log.warning(
                "retention: %d MiB more than max_bytes and keep_free allow; the rest is spared for now", -(-excess >> 20)
            )

    def _no_limit(self, work: Work, why: str) -> None:
        work.detail["note"] = why
        log.warning("retention: %s", why)

    async def _chunks(self, work: Work) -> AsyncGenerator[dict[str, Cut], None]:
        """What is to go, some conversations at a time."""
        cuts: dict[str, Cut] = {}
        work.what = "looking at conversations"
        async for topic, first, last in self._server.storage.conversations():
            work.count("conversations")
            rule = self._config.rule(topic)
            if rule is not None and rule.removes and first <= last:
                before = await self._before(rule, topic, first, last)
                if before > first:
                    cuts[topic] = Cut(first, before, rule.even_unacknowledged)
                    work.total += before - first
            if not work.detail["conversations"] % 100:
                await work.pause()
            if len(cuts) >= _TOGETHER:
                yield cuts
                cuts = {}
        if cuts:
            yield cuts

    async def _before(self, rule: Rule, topic: str, first: int, last: int) -> int:
        """The first sequence that the rule keeps."""
        before = 0
        if rule.max_messages is not None:
            before = last - rule.max_messages + 1
        if rule.seconds is not None:
            before = max(before, await self._not_older(topic, first, last, int(rule.seconds * 1000)))
        return min(before, last + 1)

    async def _not_older(self, topic: str, first: int, last: int, age: int) -> int:
        """The first sequence that is not older than ``age`` (ms).

        Where all that is kept is stamped with a time to come, the machine's clock was wrong once, and as times do not go back
        within a conversation, they tell nothing from there on: when the ids were given does.
        """
        storage, wall = self._server.storage, self._server.wall()
        found = await storage.sequence_at(topic, wall - age)
        if found > first or await storage.sequence_at(topic, wall + _AHEAD) > first:
            return found
        low, high, oldest = first, last + 1, self._server.now() - age
        while low < high:
            middle = (low + high) // 2
            page = await storage.read_conversation(topic, after=middle - 1, limit=1)
            if page and time_of(page[0].id) < oldest:
                low = middle + 1
            else:
                high = middle
        return low

    async def _apply(self, cuts: dict[str, Cut], work: Work, lost: list[str]) -> None:
        work.what = "asking the inboxes what is waited for"
        with self._server.retention_lock.watching() as began:
            waiting = Waiting(self._server, cuts, STEP, began)
            await waiting.look(work)
            work.what = "removing messages"
            await self._remove_all(cuts, waiting, work, lost)

    async def _remove_all(self, cuts: dict[str, Cut], waiting: Waiting, work: Work, lost: list[str]) -> None:
        for topic, cut in cuts.items():
            reached = cut.first
            try:
                async for reached in self._remove(topic, cut, waiting, work):  # noqa: B007 - used however this ends
                    await work.pause()
            finally:
                self._forget(topic, reached)
                if cut.forced and (entries := waiting.entries(topic, reached)):
                    work.count("unacknowledged", entries)
                    self._server.counters.entries_lost += entries
                    lost.append(topic)

    async def _remove(self, topic: str, cut: Cut, waiting: Waiting, work: Work) -> AsyncGenerator[int, None]:
        """Remove what is to go and may, step by step; the first sequence that is left, after each."""
        storage, reached, count = self._server.storage, cut.first, STEP
        while count == STEP:
            async with self._server.retention_lock.removing():
                await waiting.look_again()
                spared = None if cut.forced else waiting.first(topic)
                before = cut.before if spared is None else min(cut.before, spared)
                wanted = max(0, min(STEP, before - reached))
                count = await storage.prune_conversation(topic, before, wanted, self._server.now()) if wanted else 0
            reached += count
            work.count("removed", count)
            work.done += count
            self._server.counters.messages_removed += count
            if count < STEP:
                work.count("spared", cut.before - reached)
                work.done += cut.before - reached
            yield reached

    def _forget(self, topic: str, before: int) -> None:
        """Take what is gone out of the search index. What a crash makes this miss, the index finds at its next start."""
        search = self._server.plugin(Search)
        if search is not None:
            try:
                search.forget(topic, before)
            except SearchUnavailable as error:
                log.debug("not told to the search index, which finds it at its next start: %s", error)
