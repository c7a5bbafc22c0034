"""The job that removes attachments which nobody needs: of messages that are gone, and what no message got in time.

What a kill left of an upload are pieces that are nobody's. See `plugins.attachments.removal` for what it left of a removal.
"""

from __future__ import annotations

from broker.amqtt import Services
from plugins.attachments.links import Links
from plugins.attachments.pieces import Found, Pieces
from plugins.attachments.records import Linked, Records
from plugins.jobs import Work

_AT_ONCE = 50
"""Messages that are read at once, with their payloads."""
_JUST_NOW = 600_000
"""Milliseconds within which a message that got an attachment may not be to be seen yet, on another node."""


class CleaningJob:
    """See the module. ``kept``: seconds for which pieces that are nobody's are kept: they may be of an upload under way."""

    name = "attachments"
    about = "removes attachments of messages that are gone, and those that no message has"

    def __init__(self, server: Services, records: Records, pieces: Pieces, links: Links, kept: float) -> None:
        self._server = server
        self._records = records
        self._pieces = pieces
        self._links = links
        self._kept = kept

    async def run(self, work: Work) -> None:
        """Look at all of them."""
        work.detail |= {"expired": 0, "of_gone_messages": 0, "pieces": 0}
        await self._expired(work)
        await self._of_gone_messages(work)
        await self._pieces_of_nobody(work)

    async def _expired(self, work: Work) -> None:
        work.what = "looking for attachments that no message got"
        seen = 0
        async for record in self._records.every():
            seen += 1
            if not record.message and record.expires <= self._server.now():
                work.count("expired", await self._links.remove(record))
            if not seen % 100:
                await work.pause()

    async def _of_gone_messages(self, work: Work) -> None:
        work.what = "looking for attachments of messages that are gone"
        async for page in self._records.linked():
            for start in range(0, len(page), _AT_ONCE):
                for one in await self._gone(page[start : start + _AT_ONCE]):
                    work.count("of_gone_messages", await self._links.drop(one))
                await work.pause()

    async def _gone(self, page: list[Linked]) -> list[Linked]:
        found = await self._server.storage.read_messages([int(one.message, 16) for one in page])
        there = {message.id for message in found if not message.recalled}
        return [one for one in page if int(one.message, 16) not in there and not await self._just_now(one)]

    async def _just_now(self, one: Linked) -> bool:
        record = await self._records.find(one.id)
        return record is not None and self._server.now() - record.linked < _JUST_NOW

    async def _pieces_of_nobody(self, work: Work) -> None:
        work.what = "looking for pieces that are nobody's"
        async for page in self._pieces.every():
            old = [one for one in page if one.age > self._kept]
            if nobodys := await self._of_nobody(old):
                await self._pieces.drop(nobodys)
                work.count("pieces", len(nobodys))
            await work.pause()

    async def _of_nobody(self, old: list[Found]) -> list[str]:
        known: dict[str, set[str]] = {}
        for id in {one.name.partition("/")[0] for one in old}:
            record = await self._records.find(id)
            known[id] = {name for name, _ in record.pieces} if record is not None else set()
        return [one.name for one in old if one.name not in known[one.name.partition("/")[0]]]
