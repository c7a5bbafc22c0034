"""Searching for somebody who may not read everything.

Whether somebody may read a topic must be awaited, one topic at a time, and there may be a hundred thousand topics. So only
those are asked about that have matches, in the order of the query, until the answer is full. The search itself is then limited
to those that may be read: hits, order, totals and pages are those of an index that holds nothing else.

There is one limit to that: after `MAX_ASKED` topics or `ASKING_SECONDS` the answer is what the topics asked so far have, and
its total is not exact. Nobody sees a hit that they may not read then either; but who finds less than a page and is told that
there may be more knows that very many conversations of others have the word.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from plugins.search.engine import Query, Results, Searcher
from plugins.search.service import MayRead

MAX_ASKED = 2000
"""Topics that are asked about for one page."""
ASKING_SECONDS = 5.0
_AT_FIRST, _AT_ONCE = 64, 512


async def search_permitted(searcher: Searcher, query: Query, may_read: MayRead) -> Results:
    """The answer to a query within the topics that may be read. ``query.allowed`` is not looked at."""
    permitted, complete = await _permitted(searcher, query, may_read)
    results = await searcher.search(replace(query, allowed=permitted))
    return results if complete else replace(results, exact=False)


async def _permitted(searcher: Searcher, query: Query, may_read: MayRead) -> tuple[set[str], bool]:
    """The topics that have a part in the answer and may be read, and whether these are all."""
    allowed: set[str] = set()
    denied: set[str] = set()
    ends = asyncio.get_running_loop().time() + ASKING_SECONDS
    at_once = _AT_FIRST
    while True:
        limit = max(1, min(at_once, MAX_ASKED - len(allowed) - len(denied)))
        topics = await searcher.unasked(replace(query, allowed=allowed), denied, limit)
        for number, topic in enumerate(topics, 1):
            if number % _AT_FIRST == 0:
                await asyncio.sleep(0)  # many answers are known or computed on the spot: others want their turn
            if len(allowed) + len(denied) >= MAX_ASKED or asyncio.get_running_loop().time() > ends:
                return allowed, False
            (allowed if await may_read(topic) else denied).add(topic)
        # Where nothing that may be read matches as written, what matches through typos is still to be asked about.
        if not topics or (allowed and len(topics) < limit):
            return allowed, True
        at_once = min(_AT_ONCE, 2 * at_once)
