"""The Meilisearch engine.

Meilisearch does not find a Chinese word inside a longer one by itself. So it gets a derived field, ``grams``: our tokens,
joined by spaces; and a phrase of a query is sent in quotes. Symbols, which it takes for separators, are sent as words. Text
itself is not sent.

Its phrases have no prefixes, and its prefixes forgive typos where ours do not. A query that ends in such a one is asked with
the last word on its own, and what comes back, up to `MAX_TOTAL` messages, is looked through here.

Beside the messages an index has documents of our own, which no search finds: ``state`` has the position and the tokeniser's
version, and one for each conversation its name. They live beside what they describe, so that a server that lost its data is
filled again, and they come in one task with the messages, which the server carries out as a whole: after a crash of either side
the position says what is there. Messages carry ids, so one that comes again replaces itself.

Names of topics and users may be too long to filter by, so filters use digests of them. What a caller may see is a
list of digests in the filter; there is no shorter way that would not show a conversation that appears meanwhile. Which
conversations are worth asking about is asked of the server: those of the matches, each once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import meilisearch
from meilisearch.models.task import TaskInfo

from plugins.search.engine import (
    MAX_TOTAL,
    Document,
    Hit,
    Query,
    Results,
    SearchError,
    SearchUnavailable,
    ServerAway,
    decode_cursor,
    encode_cursor,
)
from plugins.search.meili_server import MeiliServer, Refused
from plugins.search.terms import ONE_TYPO, TWO_TYPOS, Term, parse, phrase_places
from plugins.search.text import BREAK, TOKENISER, tokens

log = logging.getLogger("tideline.search")

SETTINGS: dict[str, Any] = {
    "searchableAttributes": ["grams"],
    "displayedAttributes": ["id", "topic", "seq", "user", "device", "ts", "grams", "position", "tokeniser"],
    "filterableAttributes": ["id", "conversation", "sender", "seq", "ts", "own"],
    "sortableAttributes": ["ts"],
    # What is found as written comes before what is found through typos, also when sorted by time; recency breaks ties.
    "rankingRules": ["words", "typo", "sort", "proximity", "exactness", "ts:desc"],
    "typoTolerance": {"enabled": True, "minWordSizeForTypos": {"oneTypo": ONE_TYPO, "twoTypos": TWO_TYPOS}},
    "pagination": {"maxTotalHits": MAX_TOTAL},
    # One language for index and query: guessing it per text would normalise the two differently.
    "localizedAttributes": [{"attributePatterns": ["grams"], "locales": ["cmn"]}],
}
_MESSAGES = "ts >= 0"
"""A filter that leaves our own documents out."""

_RETRIEVED = ["id", "topic", "seq", "user", "device", "ts"]
_PAGE = 1000
_DELETED_AT_ONCE = 1000


def digest(name: str) -> str:
    """A name as filters and ids can hold it: 32 hexadecimal digits."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def grams(text: str) -> str:
    """Our tokens as Meilisearch will cut them again: a full stop is a separator that no phrase reaches across."""
    return _sent(["." if token == BREAK else token for token in tokens(text)])


def _sent(found: Sequence[str]) -> str:
    """Tokens with spaces between them, and symbols as words that nobody writes."""
    return _SYMBOL.sub(lambda symbol: f"ƾ{ord(symbol[0]):06x}", " ".join(found))


_SYMBOL = re.compile("[\U000f0000-\U0010ffff]")


def query_text(terms: Sequence[Term]) -> str:
    """The terms in Meilisearch's query language."""
    parts = []
    for term in terms:
        alone = 1 if term.prefix or term.typos else 0
        size = len(term.tokens) - alone
        parts += [f'"{_sent(run)}"' for run in _runs(term.tokens[:size])]
        parts += [_sent([token]) for token in term.tokens[size:]]
    # The last word of a query is a prefix there, unless something follows it.
    return " ".join(parts) + ("" if terms and terms[-1].prefix else " ")


def _runs(phrase: Sequence[str]) -> list[list[str]]:
    """A phrase cut at its breaks, which are separators there."""
    runs: list[list[str]] = [[]]
    for token in phrase:
        if token == BREAK:
            runs.append([])
        else:
            runs[-1].append(token)
    return [run for run in runs if run]


def _needs_a_look(terms: Sequence[Term]) -> bool:
    """Whether the server finds too much for a query: what it ends in is a phrase, or a word that forgives no typo."""
    if not terms or not terms[-1].prefix:
        return False
    last = terms[-1]
    return len(last.tokens) > 1 or (not last.typos and len(_sent(last.tokens)) >= ONE_TYPO)


class MeiliEngine:
    """`plugins.search.engine.Engine` over a Meilisearch server of version 1.10 or later.

    Conversation names are kept in memory, about 150 bytes each. Only one process may index under one ``name``.
    """

    def __init__(self, url: str, key: str = "", *, name: str = "tideline", timeout: int = 10) -> None:
        self._server = MeiliServer(url, key, timeout)
        self._live = _Index(self._server, name)
        self._next = f"{name}_next"
        self._rebuild: _MeiliRebuild | None = None
        self._opened = False

    @property
    def stale(self) -> bool:
        """Whether another tokeniser made the live index."""
        return self._live.tokeniser != TOKENISER

    async def open(self) -> None:
        """Make what is missing, apply the settings, read the position."""
        await self._live.create()
        await self._live.load()
        self._opened = True

    async def close(self) -> None:
        """Stop asking the server."""
        self._opened = False
        await self._server.close()

    async def position(self) -> int:
        """The position of the live index."""
        return self._index().at

    async def index(self, batch: Sequence[Document], position: int) -> None:
        """Add messages, and write the position once they are searchable."""
        await self._index().index(batch, position)

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._index().delete(ids)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._index().forget(topic, before_seq)

    async def topics(self, after: str = "", limit: int = 1000) -> list[str]:
        """Conversations by name."""
        return sorted(topic for topic in self._index().topics if topic > after)[:limit]

    async def held(self, topic: str, first_seq: int, last_seq: int, limit: int = 1000) -> list[int]:
        """Ids of a stretch of a conversation."""
        uid = self._index().uid
        where = f'conversation = "{digest(topic)}" AND seq >= {first_seq} AND seq <= {last_seq}'
        asked = {"filter": where, "fields": ["id"], "limit": limit}
        page = await self._server.call(lambda client: client.index(uid).get_documents(asked))
        return [int(document["id"]) for document in map(dict, page.results)]

    async def count(self) -> int:
        """How many messages are indexed."""
        uid, asked = self._index().uid, {"filter": _MESSAGES, "fields": ["id"], "limit": 1}
        page = await self._server.call(lambda client: client.index(uid).get_documents(asked))
        return int(page.total)

    async def rebuild(self) -> _MeiliRebuild:
        """Begin an empty index beside the live one."""
        if self._rebuild is not None:
            await self._rebuild.discard()
        index = _Index(self._server, self._next)
        await index.remove()
        await index.create()
        self._rebuild = _MeiliRebuild(self, index)
        return self._rebuild

    def _index(self) -> _Index:
        if not self._opened:
            if self._server.away:
                raise ServerAway(self._server.away)
            raise SearchUnavailable("the search index is not open")
        return self._live

    # --- searching ---------------------------------------------------------------------------------------------------

    async def search(self, query: Query) -> Results:
        """Answer a query with one request."""
        query.check()
        page, until = decode_cursor(query, 2) or (1, 0)
        terms = parse(query.q)
        if query.q.strip() and not terms:
            return Results([], 0)
        live = self._index()
        look = _needs_a_look(terms)
        shown = {
            "page": 1 if look else page,
            "hitsPerPage": MAX_TOTAL if look else query.limit,
            "attributesToRetrieve": [*_RETRIEVED, "grams"] if look else _RETRIEVED,
        }
        try:
            answer = await self._server.search(lambda client: self._ask(client, live, query, terms, until, shown, []))
        except Refused as error:
            raise SearchUnavailable(str(error)) from error
        if answer is None:
            return Results([], 0)
        found, total = answer["hits"], int(answer["totalHits"])
        exact = total <= MAX_TOTAL  # the server counts further than it gives
        if look:
            last = [_sent([token]) for token in terms[-1].tokens]
            found = [hit for hit in found if phrase_places(hit["grams"].split(), last, True)]
            total = len(found)
            found = found[(page - 1) * query.limit : page * query.limit]
        total = min(total, MAX_TOTAL)
        hits = [Hit(int(hit["id"]), hit["topic"], hit["seq"], hit["user"], hit["device"], hit["ts"]) for hit in found]
        more = page * query.limit < total
        following = encode_cursor(query, page + 1, until or time.time_ns() // 1_000_000 + 1) if more else ""
        return Results(hits, total, following, exact)

    async def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """Topics of matches that nothing is known about yet, best first."""
        query.check()
        terms = parse(query.q)
        allowed = query.allowed or frozenset()
        if (query.q.strip() and not terms) or len(allowed) > MAX_TOTAL:
            return []
        _, until = decode_cursor(query, 2) or (1, 0)
        live, everything = self._index(), replace(query, allowed=None)
        distinct = {"page": 1, "hitsPerPage": limit, "attributesToRetrieve": ["topic"], "distinct": "conversation"}
        known = [digest(topic) for topic in (*allowed, *denied)]
        filters = [f"conversation NOT IN [{_quoted(known)}]"] if known else []
        try:
            answer = await self._server.search(
                lambda client: self._ask(client, live, everything, terms, until, distinct, filters)
            )
        except Refused as error:
            raise SearchUnavailable(str(error)) from error
        return [] if answer is None else [hit["topic"] for hit in answer["hits"]]

    def _ask(
        self,
        client: meilisearch.Client,
        live: _Index,
        query: Query,
        terms: list[Term],
        until: int,
        shown: dict[str, Any],
        filters: list[str],
    ) -> dict[str, Any] | None:
        """The request, in a worker thread; None where the filters leave nothing. ``shown``: what is to come back."""
        filters = [*filters, *_filters(query, until)]
        if not terms:
            filters.append(_MESSAGES)
        if query.restricted:
            named = query.named_topics()
            seen = live.topics.copy()
            wanted = seen if named is None else [topic for topic in named if topic in seen]
            allowed = [digest(topic) for topic in wanted if query.permits(topic)]
            if not allowed:
                return None
            filters.append(f"conversation IN [{_quoted(allowed)}]")
        options: dict[str, Any] = {
            **shown,
            "matchingStrategy": "all",
            "locales": ["cmn"],
        }
        if filters:
            options["filter"] = " AND ".join(filters)
        if query.sort != "relevance":
            options["sort"] = ["ts:desc" if query.sort == "newest" else "ts:asc"]
        answer: dict[str, Any] = client.index(live.uid).search(query_text(terms) if terms else "", options)
        return answer


def _filters(query: Query, until: int) -> list[str]:
    """Filters that need no look-up. ``until`` keeps later pages to what the first one saw."""
    filters = []
    if query.sender:
        filters.append(f'sender = "{digest(query.sender)}"')
    if query.since:
        filters.append(f"ts >= {query.since}")
    bounds = [bound for bound in (query.until, until) if bound]
    if bounds:
        filters.append(f"ts < {min(bounds)}")
    return filters


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f'"{value}"' for value in values)


class _Index:
    """One of Meilisearch's indexes, and what our own documents in it say."""

    def __init__(self, server: MeiliServer, uid: str) -> None:
        self._server = server
        self.uid = uid
        self.at = 0
        self.tokeniser = TOKENISER
        self.topics: set[str] = set()
        self._unsaved: set[str] = set()

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
        """Read the position and the conversations."""
        offset = 0
        self.topics.clear()
        while True:
            asked = {"filter": "own = 1", "offset": offset, "limit": _PAGE}
            page = await self._server.call(lambda client, asked=asked: client.index(self.uid).get_documents(asked))  # type: ignore[misc]
            for document in map(dict, page.results):
                if document["id"] == "state":
                    self.at, self.tokeniser = int(document["position"]), int(document["tokeniser"])
                else:
                    self.topics.add(document["topic"])
            offset += _PAGE
            if offset >= page.total:
                return

    async def index(self, batch: Sequence[Document], position: int) -> None:
        """Add messages, new conversations and the position, in one task where the server takes them all."""
        # Known before their messages can be found: nobody is asked about a conversation too late.
        fresh = {document.topic for document in batch} - self.topics
        self.topics |= fresh
        self._unsaved |= fresh
        unsaved = sorted(self._unsaved)
        own: list[dict[str, Any]] = [{"id": f"t{digest(topic)}", "own": 1, "topic": topic} for topic in unsaved]
        own.append({"id": "state", "own": 1, "position": str(position), "tokeniser": self.tokeniser})
        try:
            await self._send(batch, own)
        except Refused as error:
            if not batch:
                raise
            await self._apart(batch, error)
            await self._send([], own)
        self._unsaved -= set(unsaved)
        self.at = position

    async def _send(self, batch: Sequence[Document], own: Sequence[dict[str, Any]]) -> None:
        """One task. Documents become lines in the worker thread, one at a time, so that the event loop goes on meanwhile."""

        def add(client: meilisearch.Client) -> TaskInfo:
            made = itertools.chain(map(_fields, batch), own)
            lines = [json.dumps(document, ensure_ascii=False) for document in made]
            return client.index(self.uid).add_documents_ndjson("\n".join(lines).encode(), "id")

        await self._server.run(add)

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
        for at in range(0, len(listed), _DELETED_AT_ONCE):
            await self._delete(f"id IN [{_quoted(listed[at : at + _DELETED_AT_ONCE])}]")

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation; a task only where there is something to remove."""
        old = f'conversation = "{digest(topic)}" AND seq < {before_seq}'
        asked = {"filter": old, "limit": 1, "attributesToRetrieve": ["id"]}
        found = await self._server.call(lambda client: client.index(self.uid).search("", asked))
        if found["hits"]:
            await self._delete(old)

    async def _delete(self, what: str) -> None:
        await self._server.run(lambda client: client.index(self.uid).delete_documents(filter=what))


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


class _MeiliRebuild:
    """An index that fills beside the live one."""

    def __init__(self, engine: MeiliEngine, index: _Index) -> None:
        self._engine = engine
        self._filled: _Index | None = index

    def _filling(self) -> _Index:
        if self._filled is None:
            raise SearchError("the rebuild is over")
        return self._filled

    async def position(self) -> int:
        """The position of the new index."""
        return self._filling().at

    async def index(self, batch: Sequence[Document], position: int) -> None:
        """Add messages, and write the position once they are searchable."""
        await self._filling().index(batch, position)

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._filling().delete(ids)

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove the old end of a conversation."""
        await self._filling().forget(topic, before_seq)

    async def swap(self) -> None:
        """Change names with the live index, then remove the old one."""
        filled, live, server = self._filling(), self._engine._live, self._engine._server
        topics = filled.topics.copy()
        # Searches under way see the one index or the other: until the swap is done, the conversations of both are known.
        live.topics |= topics
        try:
            await server.run(lambda client: client.swap_indexes([{"indexes": [live.uid, filled.uid]}]))
        except SearchUnavailable as error:
            # Whether it was queued is not known, and swapping twice would undo it. Either index is right, so give up.
            raise SearchError(f"the new index may not be in use: {error}") from error
        live.at, live.tokeniser, live.topics, live._unsaved = filled.at, filled.tokeniser, topics, set()
        self._filled = self._engine._rebuild = None
        await filled.remove()

    async def discard(self) -> None:
        """Remove what was built."""
        filled, self._filled = self._filled, None
        if filled is not None:
            self._engine._rebuild = None
            await filled.remove()
