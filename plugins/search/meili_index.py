"""One index of a Meilisearch server: its settings, its messages, and our own documents in it.

Beside the messages an index has documents of our own, which no search finds: some have the positions and the tokeniser's
version (`plugins.search.meili_chain`), and one for each conversation its name. They live beside what they describe, so that a
server that lost its data is filled again, and they come in one task with the messages, which the server carries out as a whole:
after a crash of either side the positions say what is there. Messages carry ids, so one that comes again replaces itself.

Tasks are queued one at a time, so that the server has them in the order of the calls, in which it carries them out.

Names of topics and users may be too long to filter by, so filters use digests of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import meilisearch
from meilisearch.models.task import TaskInfo

from plugins.search.engine import MAX_TOTAL, Document, Positions
from plugins.search.meili_chain import AHEAD, IDS, Chain, Link, stand
from plugins.search.meili_server import MeiliServer, Refused
from plugins.search.meili_text import grams
from plugins.search.terms import ONE_TYPO, TWO_TYPOS
from plugins.search.text import TOKENISER

log = logging.getLogger("tideline.search")

SETTINGS: dict[str, Any] = {
    "searchableAttributes": ["grams"],
    "displayedAttributes": ["id", "topic", "seq", "user", "device", "ts", "grams", "position", "run", "task", "tokeniser"],
    # Not `id`, nor any other string that each message has its own of: a task goes through all values of such, however small.
    "filterableAttributes": ["conversation", "sender", "seq", "ts", "own", "position"],
    "facetSearch": False,
    "sortableAttributes": ["ts"],
    # What is found as written comes before what is found through typos, also when sorted by time; recency breaks ties.
    "rankingRules": ["words", "typo", "sort", "proximity", "exactness", "ts:desc"],
    "typoTolerance": {"enabled": True, "minWordSizeForTypos": {"oneTypo": ONE_TYPO, "twoTypos": TWO_TYPOS}},
    "pagination": {"maxTotalHits": MAX_TOTAL},
    # One language for index and query: guessing it per text would normalise the two differently.
    "localizedAttributes": [{"attributePatterns": ["grams"], "locales": ["cmn"]}],
}

_PAGE = 1000
_DELETED_AT_ONCE = 10_000


def digest(name: str) -> str:
    """A name as filters and ids can hold it: 32 hexadecimal digits."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def quoted(values: Sequence[str]) -> str:
    """Values of a filter's list."""
    return ", ".join(f'"{value}"' for value in values)


class Index:
    """One of Meilisearch's indexes, and what our own documents in it say."""

    def __init__(self, server: MeiliServer, uid: str) -> None:
        self._server = server
        self.uid = uid
        self.tokeniser = TOKENISER
        self.topics: set[str] = set()
        self.unsaved: set[str] = set()
        """Topics whose document was not sent, or may not have come to be there."""
        self._chain = Chain()
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(AHEAD)

    async def create(self) -> None:
        """Make the index where it is missing, and apply the settings."""
        try:
            await self._server.run(lambda client: client.create_index(self.uid, {"primaryKey": "id"}))
        except Refused as error:
            if error.code != "index_already_exists":
                raise
        await self._server.run(lambda client: client.index(self.uid).update_settings(SETTINGS))

    async def remove(self) -> None:
        """Delete the index, if it exists."""
        try:
            await self._server.run(lambda client: client.delete_index(self.uid))
        except Refused as error:
            if error.code != "index_not_found":
                raise

    async def load(self) -> None:
        """Read the tokeniser's version and the conversations."""
        offset = 0
        self.topics.clear()
        while True:
            asked = {"filter": "own = 1", "offset": offset, "limit": _PAGE}
            page = await self._server.call(lambda client, asked=asked: client.index(self.uid).get_documents(asked))  # type: ignore[misc]
            for document in map(dict, page.results):
                if "topic" in document:
                    self.topics.add(document["topic"])
                elif "tokeniser" in document:
                    self.tokeniser = int(document["tokeniser"])
            offset += _PAGE
            if offset >= page.total:
                return

    async def positions(self) -> Positions:
        """How far everything is indexed, as our documents tell now."""
        asked = {"filter": "position EXISTS", "limit": len(IDS)}
        page = await self._server.call(lambda client: client.index(self.uid).get_documents(asked))
        return stand(map(dict, page.results))

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, new conversations and the positions, in one task where the server takes them all.

        May be called again before it has returned. Calls end in their order, and fail where one before them has.
        """
        # Known before their messages can be found: nobody is asked about a conversation too late.
        fresh = {document.topic for document in batch} - self.topics
        self.topics |= fresh
        unsaved, self.unsaved = sorted(self.unsaved | fresh), set()
        named = [{"id": f"t{digest(topic)}", "own": 1, "topic": topic} for topic in unsaved]
        try:
            async with self._room:
                await self._linked(batch, named, positions)
        except BaseException:
            self.unsaved.update(unsaved)
            raise

    async def _linked(self, batch: Sequence[Document], named: Sequence[dict[str, Any]], positions: Positions) -> None:
        link: Link | None = None
        succeeded = False
        try:
            try:
                async with self._turn:
                    link = self._chain.begin(positions)
                    task = await self._queue(batch, [*named, *self._stand(link)])
                await self._chain.before(link)
                await self._server.finish(task)
            except Refused as error:
                if link is None or not batch:
                    raise
                await self._apart(batch, error)
                await self._send([], [*named, *self._stand(link)])
            await self._chain.before(link)
            succeeded = True
        finally:
            if link is not None:
                self._chain.end(link, succeeded)

    def _stand(self, link: Link) -> list[dict[str, Any]]:
        return [{**document, "tokeniser": self.tokeniser} for document in self._chain.documents(link)]

    async def _queue(self, batch: Sequence[Document], own: Sequence[dict[str, Any]]) -> int:
        """Queue one task; its id. Documents become lines in the worker thread, one at a time: the event loop goes on."""

        def add(client: meilisearch.Client) -> TaskInfo:
            made = itertools.chain(map(_fields, batch), own)
            lines = [json.dumps(document, ensure_ascii=False) for document in made]
            return client.index(self.uid).add_documents_ndjson("\n".join(lines).encode(), "id")

        return (await self._server.call(add)).task_uid

    async def _send(self, batch: Sequence[Document], own: Sequence[dict[str, Any]]) -> None:
        """One task, to its end."""
        async with self._turn:
            task = await self._queue(batch, own)
        await self._server.finish(task)

    async def _apart(self, batch: Sequence[Document], error: Refused) -> None:
        """One message that cannot be indexed must not keep out the others: halve the batch until it is alone."""
        if len(batch) == 1:
            log.error("message %d cannot be indexed and is left out of search: %s", batch[0].id, error)
            return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            try:
                await self._send(part, [])
            except Refused as refused:
                await self._apart(part, refused)

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages by id."""
        listed = [str(id) for id in ids]
        path = f"indexes/{self.uid}/documents/delete-batch"  # the client has a method, but will not for long
        for at in range(0, len(listed), _DELETED_AT_ONCE):
            some = listed[at : at + _DELETED_AT_ONCE]
            await self._delete(lambda client, some=some: TaskInfo(**client.http.post(path, some)))  # type: ignore[misc]

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation; a task only where there is something to remove."""
        old = f'conversation = "{digest(topic)}" AND seq < {before_seq}'
        asked = {"filter": old, "limit": 1, "attributesToRetrieve": ["id"]}
        found = await self._server.call(lambda client: client.index(self.uid).search("", asked))
        if found["hits"]:
            await self._delete(lambda client: client.index(self.uid).delete_documents(filter=old))

    async def _delete(self, ask: Callable[[meilisearch.Client], TaskInfo]) -> None:
        async with self._turn:
            info = await self._server.call(ask)
        await self._server.finish(info.task_uid)


def _fields(document: Document) -> dict[str, Any]:
    return {
        "id": str(document.id),
        "conversation": digest(document.topic),
        "sender": digest(document.sender),
        "topic": document.topic,
        "user": document.sender,
        "device": document.device,
        "seq": document.seq,
        "ts": document.time,
        "grams": grams(document.text),
    }
