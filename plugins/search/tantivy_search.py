"""Queries over the index on tantivy. Runs in the engine's reader threads; each query sees one snapshot.

Filters and permission are part of the search itself, so that nothing else is ever counted, ranked or paged over.

Over 300 lines: each kind of question, all of which are answered from one snapshot.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import tantivy

from plugins.search.engine import MAX_TOTAL, BadQuery, Hit, Query, Results, SearchUnavailable, decode_cursor, encode_cursor
from plugins.search.tantivy_index import between, first_key, halves, live_generation, there, time_of_key, whole
from plugins.search.tantivy_match import MUST, MUST_NOT, all_of, matching, ranked
from plugins.search.terms import Term, parse

RANKED = MAX_TOTAL
"""Relevance ranks this many matches, the newest ones."""
_LOOKED_AT = 256
"""Matches whose conversations are looked at before those that were met are left out of the matches."""
_END = (1 << 64) - 1
_BY_TIME, _BY_RELEVANCE = 7, 4
"""Numbers of a cursor: the newest match, the last one's key and id, in halves, and typos; how many, the newest, typos."""

Match = tuple[int, tantivy.DocAddress]
"""A key, and where the message is."""

Place = tuple[int, int]
"""A key, and the id of a message that has it: several may have one key."""


class Reader:
    """Reads the live index, for any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._number = 0
        self._index: tantivy.Index | None = None
        self._seen: tuple[int, ...] = ()

    @contextmanager
    def snapshot(self, seconds: float) -> Iterator[Snapshot]:
        """What is committed now, to be asked for so long. tantivy's errors come out as `SearchUnavailable`."""
        try:
            yield self._snapshot(time.monotonic() + seconds)
        except (ValueError, OSError) as error:
            raise SearchUnavailable(f"search index: {error}") from error

    def _snapshot(self, deadline: float) -> Snapshot:
        with self._lock:
            while True:
                number = live_generation(self._folder)
                if not number:
                    raise SearchUnavailable("the search index is about to be made")
                try:
                    return self._at(number, deadline)
                except (ValueError, OSError):
                    if live_generation(self._folder) == number:
                        raise  # else it was removed in between, as another is in use

    def _at(self, number: int, deadline: float) -> Snapshot:
        if self._index is None or number != self._number:
            self._index, self._number, self._seen = there(self._folder / str(number)), number, ()
        status = os.stat(self._folder / str(number) / "meta.json")
        seen = status.st_ino, status.st_mtime_ns, status.st_size
        if seen != self._seen:
            self._index.reload()
            self._seen = seen
        return Snapshot(self._index.searcher(), self._index.schema, deadline)


def _again(two: Sequence[int]) -> int:
    """The number whose halves are in a cursor."""
    if (number := whole(*two)) > _END:
        raise BadQuery("the cursor is not one of ours")
    return number


class Snapshot:
    """Answers of one moment. Nothing breaks tantivy off, so time is looked at before each of its steps."""

    def __init__(self, searcher: tantivy.Searcher, schema: tantivy.Schema, deadline: float) -> None:
        self._whole = searcher
        self._schema = schema
        self._deadline = deadline

    @property
    def _searcher(self) -> tantivy.Searcher:
        """For one step. Raises where there is no more time."""
        if time.monotonic() > self._deadline:
            raise SearchUnavailable("the query took too long")
        return self._whole

    def topics(self, after: str, limit: int) -> list[str]:
        """Conversation names > ``after``, by name: first those that begin as it does, then with ever less of it. To list all of
        them for each page would take the square of their number."""
        everything = tantivy.Query.all_query()
        for end in range(len(after), -1, -1):
            names = self._searcher.terms_with_prefix("topic", after[:end], everything)
            found = sorted(name for name, _ in names if name > after)
            if len(found) >= limit:
                break
        return found[:limit]

    def held(self, topic: str, first_seq: int, last_seq: int, limit: int) -> list[int]:
        """Ids of up to ``limit`` messages of a stretch of a conversation."""
        query = all_of(
            tantivy.Query.term_query(self._schema, "topic", topic), between(self._schema, "seq", first_seq, last_seq)
        )
        return self._column("id", [address for _, address in self._searcher.search(query, limit).hits])

    def count(self) -> int:
        """How many messages there are."""
        return int(self._searcher.num_docs)

    def search(self, query: Query) -> Results:
        """Answer a query that was checked."""
        terms = parse(query.q)
        if query.q.strip() and not terms:
            return Results([], 0)
        if query.sort == "relevance" and terms:
            return self._by_relevance(query, terms)
        return self._by_time(query, terms)

    # --- by time -----------------------------------------------------------------------------------------------------

    def _by_time(self, query: Query, terms: list[Term]) -> Results:
        """Pages by key: a page goes on after the last key of the one before, below the newest that the first one saw."""
        ascending = query.sort == "oldest"
        cursor = decode_cursor(query, _BY_TIME)
        if cursor is None:
            page, counted, typos = self._with_typos(query, terms, ascending, query.limit + 1)
            top = page[0][0] if page else 0
            if ascending and len(page) > query.limit:
                # Later pages go up to it, and not to the newest message of the index: cursors can be read.
                top = self._matches(query, terms, typos, False, 1)[0][0][0]
        else:
            top, last, typos = _again(cursor[:2]), (_again(cursor[2:4]), _again(cursor[4:6])), bool(cursor[6])
            _, counted = self._matches(query, terms, typos, ascending, 1, top)
            page, _ = self._ordered(query, terms, typos, ascending, query.limit + 1, top, last)
        more = len(page) > query.limit
        del page[query.limit :]
        hits = self._hits(page)
        following = encode_cursor(query, *halves(top), *halves(page[-1][0]), *halves(hits[-1].id), int(typos)) if more else ""
        return Results(hits, min(counted, MAX_TOTAL), following, counted <= MAX_TOTAL)

    # --- by relevance ------------------------------------------------------------------------------------------------

    def _by_relevance(self, query: Query, terms: list[Term]) -> Results:
        """Pages by number, over the same messages as the first page saw."""
        cursor = decode_cursor(query, _BY_RELEVANCE)
        if cursor is None:
            offset, (found, counted, typos) = 0, self._with_typos(query, terms, False, RANKED)
        else:
            offset, typos = cursor[0], bool(cursor[3])
            found, counted = self._ordered(query, terms, typos, False, RANKED, _again(cursor[1:3]))
        top = found[0][0] if found else 0
        order = found
        if len(found) > 1:
            matches = self._wanted(query, terms, typos, found[-1][0], top)
            order = found if typos else ranked(self._searcher, self._schema, found, matches, terms)
        page = order[offset : offset + query.limit]
        offset += query.limit
        following = encode_cursor(query, offset, *halves(top), int(typos)) if offset < len(found) else ""
        return Results(self._hits(page), len(found), following, counted <= RANKED)

    # --- conversations to ask about ----------------------------------------------------------------------------------

    def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """See `plugins.search.engine.Searcher.unasked`."""
        terms = parse(query.q)
        if query.q.strip() and not terms:
            return []
        everything = replace(query, allowed=None)
        by_time = query.sort != "relevance" or not terms
        ascending = query.sort == "oldest"
        cursor = decode_cursor(query, _BY_TIME if by_time else _BY_RELEVANCE)
        top = _END
        if cursor is not None:
            top = _again(cursor[:2] if by_time else cursor[1:3])
        noted: dict[str, None] = {}
        for typos in (False, True) if cursor is None else (bool(cursor[-1]),):
            if typos and not any(term.typos for term in terms):
                break
            walk = _Walk(self, query, everything, terms, typos, denied, noted, limit, top)
            found = walk.note(ascending, MAX_TOTAL + 1)
            if cursor is not None and by_time:
                walk.note(ascending, query.limit + 1, (_again(cursor[2:4]), _again(cursor[4:6])))
            elif ascending and found > query.limit:
                walk.note(False, 1)  # where the pages will end
            if found or noted:
                break
        return list(noted)

    # --- matches -----------------------------------------------------------------------------------------------------

    def _with_typos(self, query: Query, terms: list[Term], ascending: bool, limit: int) -> tuple[list[Match], int, bool]:
        """What matches as written, or, only where nothing does, what matches with typos; how many; and whether the latter."""
        found, counted = self._ordered(query, terms, False, ascending, limit)
        if found or not any(term.typos for term in terms):
            return found, counted, False
        return *self._ordered(query, terms, True, ascending, limit), True

    def _ordered(
        self,
        query: Query,
        terms: Sequence[Term],
        typos: bool,
        ascending: bool,
        limit: int,
        top: int = _END,
        after: Place | None = None,
    ) -> tuple[list[Match], int]:
        """`_matches`, where those of one key are in the order of their ids, also where the page ends among them."""
        found, counted = self._matches(query, terms, typos, ascending, limit, top, after)
        if len({key for key, _ in found}) == len(found):
            return found, counted
        if len(found) == limit and (last := found[-1][0]) == found[-2][0]:
            found = [match for match in found if match[0] != last]
            found += self._matches(query, terms, typos, ascending, MAX_TOTAL, last, after, bottom=last)[0]
        ids = self._column("id", [address for _, address in found])
        order = sorted(range(len(found)), key=lambda at: (found[at][0], ids[at]), reverse=not ascending)
        return [found[at] for at in order[:limit]], counted

    def _matches(
        self,
        query: Query,
        terms: Sequence[Term],
        typos: bool,
        ascending: bool,
        limit: int,
        top: int = _END,
        after: Place | None = None,
        without: Sequence[str] = (),
        bottom: int = 0,
    ) -> tuple[list[Match], int]:
        """Matches by key, from ``bottom`` to ``top``, behind ``after``, in none of ``without``; and how many."""
        low, high = max(bottom, first_key(query.since)), top
        if query.until:
            high = min(high, first_key(query.until) - 1)
        others = []
        if after is not None:
            key, id = after
            low, high = (max(low, key), high) if ascending else (low, min(high, key))
            ids = between(self._schema, "id", 0, id) if ascending else between(self._schema, "id", id, _END)
            others.append(all_of(between(self._schema, "key", key, key), ids))
        if without:
            others.append(tantivy.Query.term_set_query(self._schema, "topic", list(without)))
        if low > high:
            return [], 0
        wanted = self._wanted(query, terms, typos, low, high)
        if others:
            wanted = tantivy.Query.boolean_query([(MUST, wanted), *((MUST_NOT, other) for other in others)])
        order = tantivy.Order.Asc if ascending else tantivy.Order.Desc
        found: Any = self._searcher.search(wanted, limit, order_by_field="key", order=order)  # its type lacks the count
        return found.hits, found.count

    def _wanted(self, query: Query, terms: Sequence[Term], typos: bool, low: int, high: int) -> tantivy.Query:
        parts = [matching(self._searcher, self._schema, term, typos) for term in terms]
        if query.sender:
            parts.append(tantivy.Query.term_query(self._schema, "sender", query.sender))
        if query.restricted:
            parts.append(tantivy.Query.term_set_query(self._schema, "topic", self._named(query)))
        return all_of(*parts, between(self._schema, "key", low, high))

    def _named(self, query: Query) -> list[str]:
        """The conversations that the query may see."""
        named = query.named_topics()
        if named is None:
            start = query.topic_filter.split("+")[0].split("#")[0].removesuffix("/")
            named = {name for name, _ in self._searcher.terms_with_prefix("topic", start)}
        return [name for name in named if query.permits(name)]

    def _hits(self, page: Sequence[Match]) -> list[Hit]:
        addresses = [address for _, address in page]
        hits = []
        for (key, address), id, seq in zip(page, self._column("id", addresses), self._column("seq", addresses), strict=True):
            kept: Any = self._searcher.doc(address)
            topic, sender, device = (kept.get_first(field) for field in ("topic", "sender", "device"))
            hits.append(Hit(id, topic, seq, sender, device.decode(), time_of_key(key)))
        return hits

    def _column(self, field: str, addresses: list[tantivy.DocAddress]) -> list[int]:
        return cast("list[int]", self._searcher.fast_field_values(field, addresses))

    def topic(self, match: Match) -> str:
        """The conversation of a match."""
        return str(self._searcher.doc(match[1]).get_first("topic"))


class _Walk:
    """Notes the conversations of matches that nothing is known about, up to ``limit`` of them, in the order they are met."""

    def __init__(
        self,
        snapshot: Snapshot,
        query: Query,
        everything: Query,
        terms: list[Term],
        typos: bool,
        denied: AbstractSet[str],
        noted: dict[str, None],
        limit: int,
        top: int,
    ) -> None:
        self._snapshot = snapshot
        self._mine = replace(query, allowed=query.allowed or frozenset())
        self._everything = everything
        self._terms = terms
        self._typos = typos
        self._known = {*(query.allowed or ()), *denied}
        self._noted = noted
        self._limit = limit
        self._top = top

    def note(self, ascending: bool, enough: int, after: Place | None = None) -> int:
        """Up to where ``enough`` are permitted; how many are."""
        matches, terms, typos = self._snapshot._matches, self._terms, self._typos
        permitted, _ = matches(self._mine, terms, typos, ascending, enough, self._top, after)
        end = permitted[-1][0] if len(permitted) >= enough else -1
        while len(self._noted) < self._limit:
            without = [*self._known, *self._noted]
            page, _ = matches(self._everything, terms, typos, ascending, _LOOKED_AT, self._top, after, without)
            met = {
                self._snapshot.topic(match): None
                for match in page
                if end < 0 or (match[0] <= end if ascending else match[0] >= end)
            }
            for topic in met:
                if len(self._noted) < self._limit:
                    self._noted[topic] = None
            if len(page) < _LOOKED_AT or not met:
                break
            self._known |= met.keys()
            after = page[-1][0], 0 if ascending else _END  # with all that have its key: those met are left out by name
        return len(permitted)
