"""What devices still wait for: the messages past the offset of a living device, of those that retention would remove.

What is past the lowest offset of an inbox counts as waited for, whatever the device's filters: an offset can only be behind
what its device is due, never ahead. In flight is not acknowledged, and a shared group is a reader like others. Where a device
has begun while the run goes on, or was set back (`broker.sessions.retention_lock`), its inbox is looked at again before the
next step.

An inbox of which some is damaged says nothing from there on. What it may wait for is newer than the last message that it still
tells of, as ids rise along an inbox, and so all of that is spared.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping
from typing import NamedTuple

from broker.amqtt import Services
from plugins.jobs.work import Work
from storage.errors import UnreadableInbox

log = logging.getLogger("tideline.jobs")

PAGE = 5000
_BACK = 100
"""Entries before the damaged ones among which one is looked for whose message is still there."""


class Cut(NamedTuple):
    """What a rule says of a conversation: what is from ``first`` on and before ``before`` is to go.

    ``forced``: also what somebody waits for.
    """

    first: int
    before: int
    forced: bool


class Waiting:
    """What somebody waits for of what is to go by ``cuts``, which are removed ``step`` messages at a time.

    ``began`` are the inboxes in which a device has begun since they were looked at.

    Of a conversation the lowest sequence is remembered; of a forced one how many entries wait for the messages of each step.
    """

    def __init__(self, server: Services, cuts: Mapping[str, Cut], step: int, began: set[str]) -> None:
        self._server = server
        self._cuts = cuts
        self._step = step
        self._lowest: dict[str, int] = {}
        self._entries: dict[str, array[int]] = {}
        self._offsets: dict[str, int] = {}
        self._began = began
        self._untold: int | None = None
        """Inboxes that are damaged may wait for whatever has a higher id; None while there are none."""

    def first(self, topic: str) -> int | None:
        """The lowest sequence that somebody waits for; None where nobody does."""
        return self._lowest.get(topic)

    def entries(self, topic: str, before: int) -> int:
        """How many inbox entries wait for what is before ``before``, where a step of a forced conversation ended."""
        cut = self._cuts[topic]
        steps = -((cut.first - before) // self._step)
        return sum(self._entries.get(topic, ())[:steps])

    async def look(self, work: Work) -> None:
        """Read what the inboxes point to, from their lowest offsets on."""
        async for page in self._server.storage.lowest_offsets():
            for user, offset in page:
                await self._read(user, offset, work)
        await self._spare_untold()

    async def look_again(self) -> None:
        """Read what has come into view since, by an offset that is lower than it was, or new. To be awaited where nobody can
        begin; those who did are few."""
        while self._began:
            user = self._began.pop()
            offset, before = await self._server.lowest_offset(user), self._offsets.get(user)
            if offset is not None and (before is None or offset < before):
                await self._read(user, offset, None, before)
                await self._spare_untold()

    async def _cannot_read(self, user: str, damage: UnreadableInbox, work: Work | None) -> None:
        log.error("retention spares what came since the last entry that can be read: %s", damage)
        if work is not None:
            work.count("unreadable_inboxes")
        known = await self._last_known(user, damage.first)
        self._untold = known if self._untold is None else min(known, self._untold)

    async def _last_known(self, user: str, before: int) -> int:
        """The id of the last message that an inbox tells of before an entry; 0 where it tells of none."""
        storage = self._server.storage
        for after in range(before - 2, max(-1, before - 2 - _BACK), -1):
            try:
                ((seq, topic, message),) = await storage.read_pointers(user, after, 1)
            except (UnreadableInbox, ValueError):
                continue
            if seq == after + 1 and topic and (page := await storage.read_conversation(topic, after=message - 1, limit=1)):
                return page[0].id
        return 0

    async def _spare_untold(self) -> None:
        """Spare what is newer than the last message that is known, but for what a rule removes in any case."""
        if self._untold is None:
            return
        for topic, cut in self._cuts.items():
            if not cut.forced:
                low, high = cut.first, min(cut.before, self._lowest.get(topic, cut.before))
                while low < high:
                    middle = (low + high) // 2
                    page = await self._server.storage.read_conversation(topic, after=middle - 1, limit=1)
                    if page and page[0].id <= self._untold:
                        low = middle + 1
                    else:
                        high = middle
                if low < cut.before:
                    self._lowest[topic] = min(low, self._lowest.get(topic, low))

    async def _read(self, user: str, offset: int, work: Work | None, until: int | None = None) -> None:
        """Look at an inbox's entries past ``offset``, up to ``until``. What comes into it meanwhile is newer than any cut."""
        self._offsets[user] = offset
        after, damage = offset, None
        while until is None or after < until:
            limit = PAGE if until is None else min(PAGE, until - after)
            try:
                page = await self._server.storage.read_pointers(user, after, limit)
            except UnreadableInbox as found:
                if damage is not None:
                    break
                damage = found
                until = found.first - 1 if until is None else min(until, found.first - 1)
                continue
            for after, topic, seq in page:
                cut = self._cuts.get(topic)
                if cut is not None and cut.first <= seq < cut.before and (until is None or after <= until):
                    self._note(topic, seq, cut)
            if work is not None:
                await work.pause()
            if len(page) < limit:
                break
        if damage is not None:
            await self._cannot_read(user, damage, work)

    def _note(self, topic: str, seq: int, cut: Cut) -> None:
        if not cut.forced:
            self._lowest[topic] = min(seq, self._lowest.get(topic, seq))
            return
        if topic not in self._entries:
            self._entries[topic] = array("Q", bytes(8 * -((cut.first - cut.before) // self._step)))
        self._entries[topic][(seq - cut.first) // self._step] += 1
