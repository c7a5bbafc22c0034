"""What devices still wait for: the messages past the offset of a living device, of those that retention would remove.

What is past the lowest offset of an inbox counts as waited for, whatever the device's filters: an offset can only be behind
what its device is due, never ahead. In flight is not acknowledged, and a shared group is a reader like others. Where a device
has begun while the run goes on, or was set back (`broker.sessions.retention_lock`), its inbox is looked at again before the
next step.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import NamedTuple

from broker.amqtt import Services
from plugins.jobs.work import Work

PAGE = 5000


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

    async def look_again(self) -> None:
        """Read what has come into view since, by an offset that is lower than it was, or new. To be awaited where nobody can
        begin; those who did are few."""
        while self._began:
            user = self._began.pop()
            offset, before = await self._server.lowest_offset(user), self._offsets.get(user)
            if offset is not None and (before is None or offset < before):
                await self._read(user, offset, None, before)

    async def _read(self, user: str, offset: int, work: Work | None, until: int | None = None) -> None:
        """Look at an inbox's entries past ``offset``, up to ``until``. What comes into it meanwhile is newer than any cut."""
        self._offsets[user] = offset
        after = offset
        while until is None or after < until:
            limit = PAGE if until is None else min(PAGE, until - after)
            page = await self._server.storage.read_pointers(user, after, limit)
            for after, topic, seq in page:
                cut = self._cuts.get(topic)
                if cut is not None and cut.first <= seq < cut.before and (until is None or after <= until):
                    self._note(topic, seq, cut)
            if work is not None:
                await work.pause()
            if len(page) < limit:
                break

    def _note(self, topic: str, seq: int, cut: Cut) -> None:
        if not cut.forced:
            self._lowest[topic] = min(seq, self._lowest.get(topic, seq))
            return
        if topic not in self._entries:
            self._entries[topic] = array("Q", bytes(8 * -((cut.first - cut.before) // self._step)))
        self._entries[topic][(seq - cut.first) // self._step] += 1
