"""The Meilisearch engine: what is asked of an index, and the change to one that was built beside it.

A query that `meili_text.needs_a_look` gets up to `MAX_TOTAL` messages, which are looked through here.

What a caller may see is a list of digests of topics in the filter; there is no shorter way that would not show a conversation
that appears meanwhile. Which conversations are worth asking about is asked of the server: those of the matches, each once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import meilisearch

from plugins.search.engine import (
    MAX_TOTAL,
    Document,
    Hit,
    Positions,
    Query,
    Results,
    SearchError,
    SearchUnavailable,
    ServerAway,
    decode_cursor,
    encode_cursor,
)
from plugins.search.meili_chain import AHEAD
from plugins.search.meili_index import Index, digest, quoted
from plugins.search.meili_server import MeiliServer, Refused
from plugins.search.meili_text import needs_a_look, query_text, sent
from plugins.search.terms import Term, parse, phrase_places
from plugins.search.text import TOKENISER

log = logging.getLogger("tideline.search")

_MESSAGES = "ts >= 0"
"""A filter that leaves our own documents out."""

_RETRIEVED = ["id", "topic", "seq", "user", "device", "ts"]


class MeiliEngine:
    """`plugins.search.engine.Engine` over a Meilisearch server of version 1.12 or later.

    Conversation names are kept in memory, about 150 bytes each. Only one process may index under one ``name``.
    """

    ahead = AHEAD

    def __init__(self, url: str, key: str = "", *, name: str = "tideline", timeout: int = 10) -> None:
        self._server = MeiliServer(url, key, timeout)
        self._live = Index(self._server, name)
        self._next = f"{name}_next"
        self._rebuild: _MeiliRebuild | None = None
        self._opened = False

    @property
    def stale(self) -> bool:
        """Whether another tokeniser made the live index."""
        return self._live.tokeniser != TOKENISER

    @property
    def away(self) -> str:
        """Why the server does not answer; empty while it does."""
        return self._server.away

    async def open(self) -> None:
        """Make what is missing, apply the settings, read the conversations."""
        await self._live.create()
        await self._live.load()
        self._opened = True

    async def remove(self) -> None:
        """Delete the index on the server. The engine must be opened again then."""
        self._opened = False
        await self._live.remove()

    async def close(self) -> None:
        """Stop asking the server."""
        self._opened = False
        await self._server.close()

    async def positions(self) -> Positions:
        """The positions of the live index, as the server has them: another node may be the one who writes."""
        return await self._index().positions()

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, and write the positions with them."""
        await self._index().index(batch, positions)

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages."""
        await self._index().delete(ids)

    async def purge(self) -> bool:
        """Nothing: the files are the server's."""
        return False

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
        index = Index(self._server, self._next)
        await index.remove()
        await index.create()
        self._rebuild = _MeiliRebuild(self, index)
        return self._rebuild

    def _index(self) -> Index:
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
        look = needs_a_look(terms)
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
            last = [sent([token]) for token in terms[-1].tokens]
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
        filters = [f"conversation NOT IN [{quoted(known)}]"] if known else []
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
        live: Index,
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
            filters.append(f"conversation IN [{quoted(allowed)}]")
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


class _MeiliRebuild:
    """An index that fills beside the live one."""

    ahead = AHEAD

    def __init__(self, engine: MeiliEngine, index: Index) -> None:
        self._engine = engine
        self._filled: Index | None = index

    def _filling(self) -> Index:
        if self._filled is None:
            raise SearchError("the rebuild is over")
        return self._filled

    async def positions(self) -> Positions:
        """The positions of the new index."""
        return await self._filling().positions()

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, and write the positions with them."""
        await self._filling().index(batch, positions)

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
        live.tokeniser, live.topics, live.unsaved = filled.tokeniser, topics, set()
        self._filled = self._engine._rebuild = None
        try:
            await filled.remove()
        except SearchError as error:  # the new one is in use all the same
            log.warning("the old search index stays on the server until the next rebuild: %s", error)

    async def discard(self) -> None:
        """Remove what was built."""
        filled, self._filled = self._filled, None
        if filled is not None:
            self._engine._rebuild = None
            await filled.remove()
