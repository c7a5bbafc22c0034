"""Comparing an index with the store, message by message, and repairing what differs. A part of the indexer's task.

Conversation by conversation, in pages: what the store has and the index has not is added, what the index has and the store
has not is removed. Messages past the indexer's positions are still to come, and are not missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Protocol

from plugins.edit_rows import Rows
from plugins.follower import passed
from plugins.search.engine import Document, Engine, Positions
from plugins.search.service import Differences
from plugins.search.superseded import superseded_between
from plugins.search.text import payload_text
from storage.interface import Catalogue, ConversationReader
from storage.records import Message

HIGHEST = (1 << 53) - 1
"""No sequence is higher, as far as an engine can tell numbers apart."""
_AT_ONCE = 1000
_REACTIONS = (b"tideline-reacts", b"tideline-unreacts")
"""Names of user properties, as they are on the wire."""
_OWN = "$sync/"
"""What the broker keeps for itself is below: nobody may read it, and it is gone again a moment later."""


class Listed(ConversationReader, Rows, Catalogue, Protocol):
    """What of the storage is read."""


def documents(messages: Sequence[Message]) -> list[Document]:
    """What of the messages is searchable: those with text that somebody may read."""
    found = []
    for message in messages:
        if message.topic.startswith(_OWN):
            continue
        properties = message.properties
        if properties and any(sign in properties for sign in _REACTIONS):
            continue  # what somebody gives a message is no message to look for
        text = payload_text(message.payload)
        if text:
            found.append(Document(message.id, message.topic, message.seq, message.user, message.device, message.time, text))
    return found


class Comparison:
    """One comparison, a page a step. ``done`` gets the `Differences` at the end; cancelling it ends the comparison."""

    def __init__(
        self,
        source: Listed,
        engine: Engine,
        done: asyncio.Future[Differences],
        report: Callable[[Differences], None],
    ) -> None:
        self.done = done
        self._source = source
        self._engine = engine
        self._report = report
        self._stored: AsyncIterator[tuple[str, int, int]] | None = source.conversations()
        self._topic = ""
        self._after = 0
        self._indexed_after = ""
        self._conversations = self._messages = self._missing = self._surplus = 0

    async def step(self, positions: Positions, limit: int) -> bool:
        """Compare one page of up to ``limit`` messages, with an index that stands at ``positions``; whether there is more."""
        if self._topic:
            await self._page(positions, limit)
        elif self._stored is not None:
            await self._next_stored()
        elif not await self._indexed_alone():
            if not self.done.done():  # it may have been called off meanwhile
                self.done.set_result(self._found())
            return False
        self._report(self._found())
        return True

    def _found(self) -> Differences:
        return Differences(self._conversations, self._messages, self._missing, self._surplus)

    async def _next_stored(self) -> None:
        """Begin with the next conversation of the store, by what is older than the store goes back."""
        assert self._stored is not None
        found = await anext(self._stored, None)
        if found is None:
            self._stored = None
            return
        self._topic, first, _ = found
        self._after = first - 1
        await self._remove_between(self._topic, 0, first - 1)

    async def _page(self, positions: Positions, limit: int) -> None:
        topic, after = self._topic, self._after
        page = await self._source.read_conversation(topic, after=after, limit=limit)
        if not page:
            _, last = await self._source.conversation_bounds(topic)
            await self._remove_between(topic, max(last, after) + 1, HIGHEST)
            self._topic = ""
            self._conversations += 1
            return
        last = page[-1].seq
        old = await superseded_between(self._source, topic, after + 1, last, page)
        shown = [message for message in page if message.id not in old]
        expected = {document.id: document for document in await asyncio.to_thread(documents, shown)}
        indexed = set(await self._engine.held(topic, after + 1, last, 4 * limit))
        missing = [document for id, document in expected.items() if id not in indexed and passed(positions, id)]
        if missing:
            await self._engine.index(missing, positions)
            self._missing += len(missing)
        await self._remove(indexed - expected.keys())
        self._messages += len(page)
        self._after = last

    async def _indexed_alone(self) -> bool:
        """Remove conversations that only the index has, some at a time; whether there may be more."""
        topics = await self._engine.topics(self._indexed_after, 100)
        for topic in topics:
            if (await self._source.conversation_bounds(topic))[1] == 0:
                await self._remove_between(topic, 0, HIGHEST)
            self._indexed_after = topic
        return bool(topics)

    async def _remove_between(self, topic: str, first: int, last: int) -> None:
        while ids := await self._engine.held(topic, first, last, _AT_ONCE):
            await self._remove(ids)

    async def _remove(self, ids: Collection[int]) -> None:
        if ids:
            await self._engine.delete(ids)
            self._surplus += len(ids)
