"""Limits in bytes: which messages go so that all of them together, or the disk's free space, keep within what is configured.

The oldest go first, whatever their conversations, in the order in which their ids were given. Whoever waits for a message
spares it, and what is behind it in its conversation, as with any rule. What a rule without limits matches is kept for ever.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.amqtt import Services
from plugins.jobs.config import Retention
from plugins.jobs.waiting import Cut
from plugins.jobs.work import Work
from storage.interface import Measured, Volume

ROW = 512
"""Bytes counted for a message beside its payload: its row, its entries, and their places in the indexes."""
_PAGE = 500
_TOGETHER = 20_000
"""Messages that are chosen before it is measured again."""


class Oldest(NamedTuple):
    """What is to go, and the id up to which was looked."""

    cuts: dict[str, Cut]
    after: int


class Room:
    """Measures, and chooses."""

    def __init__(self, server: Services, config: Retention) -> None:
        self._server = server
        self._config = config

    @property
    def measured(self) -> bool:
        """Whether the storage can tell how much there is."""
        return isinstance(self._server.storage, Measured)

    async def tells_free(self) -> bool:
        """Whether it can tell how much of its disk is free."""
        storage = self._server.storage
        return isinstance(storage, Measured) and (await storage.volume()).free is not None

    async def excess(self) -> int:
        """Bytes that are too many now; 0 or less where none are."""
        storage = self._server.storage
        assert isinstance(storage, Measured)
        volume = await storage.volume()
        return max(self._above(volume), self._below(volume))

    def _above(self, volume: Volume) -> int:
        return 0 if self._config.max_bytes is None else volume.used - self._config.bytes_in_all

    def _below(self, volume: Volume) -> int:
        if self._config.keep_free is None or volume.free is None or volume.total is None:
            return 0
        return self._config.bytes_free(volume.total) - volume.free

    async def oldest(self, after: int, excess: int, work: Work) -> Oldest:
        """The oldest messages with an id over ``after`` that are about ``excess`` bytes, and may go."""
        storage = self._server.storage
        cuts: dict[str, Cut] = {}
        found = size = 0
        while size < excess and found < _TOGETHER:
            page = await storage.read_tail(after, _PAGE)
            if not page:
                break
            for message in page:
                after = message.id
                rule = self._config.rule(message.topic)
                if rule is not None and not rule.removes:
                    continue
                forced = self._config.even_unacknowledged or (rule is not None and rule.even_unacknowledged)
                known = cuts.get(message.topic)
                # From the first that is kept, so that what is spared below is seen again.
                first = known.first if known is not None else (await storage.conversation_bounds(message.topic))[0]
                cuts[message.topic] = Cut(first, message.seq + 1, forced)
                found += 1
                size += ROW + len(message.payload) + len(message.properties)
                if size >= excess:
                    break
            await work.pause()
        work.total += found
        return Oldest(cuts, after)
