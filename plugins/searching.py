"""Search for somebody: within what the caller may read. What HTTP and the requests over MQTT share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from broker.access import SEARCH
from broker.amqtt import Services
from plugins.search.service import BadQuery, MayRead, Query, Search, SearchError, wording
from plugins.timelines import Timelines, Unprocessable, Who, seen
from plugins.timelines.errors import Away
from plugins.timelines.messages import rendered

_KNOWN = 1000
"""Somebody takes part in this many conversations: those found are asked about, instead of listing all before a search."""


def search_plugin(server: Services) -> Search:
    """What searches here. Raises `Away` where nothing does."""
    plugin = server.plugin(Search)
    if plugin is None:
        raise Away("search is not configured")
    return plugin


async def searched(timelines: Timelines, who: Who, query: Query, named: Sequence[str] | None) -> dict[str, Any]:
    """A page of hits as they are shown to the caller: those of an index that holds only what the caller may read.

    ``named`` are exact topics, or None for all; ``query`` comes without ``conversations`` and ``allowed``. Raises
    `Unprocessable`, `Away`, and `storage.errors.StorageError`.
    """
    server = timelines.server
    plugin = search_plugin(server)
    try:
        query.check()
        allowed, may_read = await _permission(timelines, who, named)
        query = replace(query, conversations=None if named is None else frozenset(named), allowed=allowed)
        page = await plugin.search(query, may_read)
    except BadQuery as error:
        raise Unprocessable(str(error)) from error
    except SearchError as error:
        raise Away(wording(error, operator=who.operator), retry_after=5) from error
    visible = await seen(server, who, [found.message for found in page.hits])
    hits = [{**rendered(f.message), "highlight": f.highlight} for f in page.hits if f.message.id in visible]
    hidden = len(page.hits) - len(hits)
    exact = page.exact and not hidden
    return {"hits": hits, "total": page.total - hidden, "total_exact": exact, "next": page.next or None}


async def _permission(
    timelines: Timelines, who: Who, named: Sequence[str] | None
) -> tuple[frozenset[str] | None, MayRead | None]:
    """What of the index the caller may read: listed where that is short, or how to ask about a topic; None and None: all."""
    if who.operator:
        return None, None

    async def may_read(topic: str) -> bool:
        return not topic.startswith("$sync/") and await timelines.may_read(who, topic, SEARCH)

    if named is not None:
        return frozenset([topic for topic in named if topic and await may_read(topic)]), None
    if timelines.server.access.openness.open:
        page = await timelines.takes_part_in(who, "", _KNOWN)
        if len(page) < _KNOWN:
            return frozenset(page), None
    return None, may_read
