"""Queries over the embedded index. Runs in the engine's reader threads; each query sees one snapshot.

What a text must have is in `fts5_match`, where the query looks in `fts5_scope`: both are part of the search itself, so that
nothing else is ever counted, ranked or paged over.

Which conversations must be asked about before (`Reader.unasked`) is read from the matches themselves.

Over 300 lines: one query, from its filters to its page.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from plugins.search.engine import MAX_TOTAL, Hit, Query, Results, SearchUnavailable, decode_cursor, encode_cursor
from plugins.search.fts5_body import unpacked
from plugins.search.fts5_index import live_generation
from plugins.search.fts5_layout import OVERRUN, Layout, layout_of, overrun_of
from plugins.search.fts5_match import expression, ranked
from plugins.search.fts5_scope import Scope, scope_of
from plugins.search.terms import Term, parse

RANKED = MAX_TOTAL
"""Relevance ranks this many matches, the newest ones. With twice as many, frequent words took twice the processor time."""

_LOOKED_AT = 256
"""Matches whose conversations are looked at before those that were met are left out of the matches."""

_NOW = (1 << 62) - 1
"""Above every rowid."""


class _Asking:
    """What is known about topics, and up to ``limit`` of those that nothing is known about, in the order they were met."""

    def __init__(self, allowed: AbstractSet[str], denied: AbstractSet[str], limit: int) -> None:
        self.allowed = allowed
        self.denied = denied
        self.topics: dict[str, None] = {}
        self._limit = limit

    def full(self) -> bool:
        """Whether no more can be noted."""
        return len(self.topics) >= self._limit


class Reader:
    """One read connection and what a query needs around it. Used by one thread at a time."""

    def __init__(self, path: str, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = 0.0
        self._permitted: Callable[[int], bool] = lambda number: False
        self._generation = 0
        self._layout: Layout
        self._db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA query_only = ON")
        self._db.execute("PRAGMA cache_size = -16000")
        self._db.create_function("permitted", 1, lambda number: self._permitted(number))
        self._db.set_progress_handler(lambda: time.monotonic() > self._deadline, 1000)

    def close(self) -> None:
        """Close the connection; a query under way in another thread is broken off."""
        self._db.interrupt()
        self._db.close()

    def topics(self, after: str, limit: int) -> list[str]:
        """Conversation names > ``after``, by name."""
        with _Snapshot(self) as g:
            sql = f"SELECT name FROM conversations_{g} WHERE name > ? ORDER BY name LIMIT ?"
            return [name for (name,) in self._db.execute(sql, (after, limit))]

    def held(self, topic: str, first_seq: int, last_seq: int, limit: int) -> list[int]:
        """Ids of up to ``limit`` messages of a stretch of a conversation."""
        with _Snapshot(self) as g:
            conversation = f"(SELECT id FROM conversations_{g} WHERE name = ?)"
            where = f"conversation = {conversation} AND seq BETWEEN ? AND ?"
            sql = f"SELECT {self._layout.id} FROM docs_{g} d WHERE {where} LIMIT ?"
            return [id for (id,) in self._db.execute(sql, (topic, first_seq, last_seq, limit))]

    def count(self) -> int:
        """How many messages the live index has."""
        with _Snapshot(self) as g:
            return int(self._db.execute(f"SELECT count(*) FROM docs_{g}").fetchone()[0])

    def search(self, query: Query) -> Results:
        """Answer a query that was checked."""
        terms = parse(query.q)
        if query.q.strip() and not terms:
            return Results([], 0)
        with _Snapshot(self):
            scope = self._scope(query)
            if scope.nothing:
                return Results([], 0)
            if query.sort == "relevance" and terms:
                return self._by_relevance(query, terms, scope)
            return self._by_time(query, terms, scope)

    def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """See `plugins.search.engine.Searcher.unasked`."""
        terms = parse(query.q)
        if query.q.strip() and not terms:
            return []
        with _Snapshot(self):
            everything = replace(query, allowed=None)
            scope = self._scope(everything)
            if scope.nothing:
                return []
            ask = _Asking(query.allowed or frozenset(), denied, limit)
            by_time = query.sort != "relevance" or not terms
            ascending = query.sort == "oldest"
            cursor = decode_cursor(query, 3)
            top = _NOW if cursor is None else cursor[0 if by_time else 1]
            for typos in (False, True) if cursor is None else (bool(cursor[2]),):
                if typos and not any(term.typos for term in terms):
                    break
                expression = self._expression(terms, typos)
                found = self._walk(everything, scope, expression, ascending, top, ask, MAX_TOTAL + 1)
                if cursor is not None and by_time:
                    self._walk(everything, scope, expression, ascending, top, ask, query.limit + 1, cursor[1])
                elif ascending and found > query.limit:
                    self._walk(everything, scope, expression, False, top, ask, 1)  # where the pages will end
                if found or ask.topics:
                    break
            return list(ask.topics)

    def _walk(
        self,
        query: Query,
        scope: Scope,
        expression: str,
        ascending: bool,
        top: int,
        ask: _Asking,
        enough: int,
        after: int = -1,
    ) -> int:
        """Note the conversations of matches up to where ``enough`` are permitted; how many are."""
        mine = self._scope(replace(query, allowed=ask.allowed))
        permitted = [] if mine.nothing else self._rowids(query, mine, expression, ascending, top, after, enough)
        end = permitted[-1] if len(permitted) >= enough else -1
        known = self._numbers([*ask.allowed, *ask.denied, *ask.topics])
        while not ask.full():
            others = scope.without(known, bool(expression or scope.match))
            columns = "d.rowid, d.conversation"
            page = list(self._matches(query, others, expression, ascending, top, after, _LOOKED_AT, columns))
            met = {number: None for rowid, number in page if end < 0 or (rowid <= end if ascending else rowid >= end)}
            for number in met:
                if not ask.full():
                    ask.topics[self._name(number)] = None
            if len(page) < _LOOKED_AT or not met:
                break
            known += met
            after = page[-1][0]
        return len(permitted)

    def _name(self, number: int) -> str:
        sql = f"SELECT name FROM conversations_{self._generation} WHERE id = ?"
        return str(self._db.execute(sql, (number,)).fetchone()[0])

    def _numbers(self, topics: Sequence[str]) -> list[int]:
        """The numbers of those conversations that there are."""
        sql = f"SELECT id FROM conversations_{self._generation} WHERE name IN (SELECT value FROM json_each(?))"
        return [number for (number,) in self._db.execute(sql, (json.dumps(topics),))]

    # --- by time -----------------------------------------------------------------------------------------------------

    def _by_time(self, query: Query, terms: list[Term], scope: Scope) -> Results:
        """Pages by key: a page goes on after the last rowid of the one before, below the newest that the first one saw."""
        ascending = query.sort == "oldest"
        cursor = decode_cursor(query, 3)
        if cursor is None:
            found, typos = self._with_typos(terms, lambda expression: self._rowids(query, scope, expression, ascending, _NOW))
            page, counted = found[: query.limit], len(found)
            more = len(found) > query.limit
            top = self._newest(query, scope, self._expression(terms, typos)) if more and ascending else max(found, default=0)
        else:
            top, last, typos = cursor[0], cursor[1], bool(cursor[2])
            expression = self._expression(terms, typos)
            counted = len(self._rowids(query, scope, expression, ascending, top))
            page = self._rowids(query, scope, expression, ascending, top, after=last, limit=query.limit + 1)
            more = len(page) > query.limit
            del page[query.limit :]
        following = encode_cursor(query, top, page[-1], int(typos)) if more else ""
        return Results(self._hits(page), min(counted, MAX_TOTAL), following, counted <= MAX_TOTAL)

    def _newest(self, query: Query, scope: Scope, expression: str) -> int:
        """The newest match. Later pages go up to it, and not to the newest message of the index: cursors can be read."""
        return max(self._rowids(query, scope, expression, False, _NOW, limit=1), default=0)

    def _rowids(
        self,
        query: Query,
        scope: Scope,
        expression: str,
        ascending: bool,
        top: int,
        after: int = -1,
        limit: int = MAX_TOTAL + 1,
    ) -> list[int]:
        """Rowids of matches in time order, not above ``top``."""
        return [rowid for (rowid,) in self._matches(query, scope, expression, ascending, top, after, limit)]

    def _matches(
        self,
        query: Query,
        scope: Scope,
        expression: str,
        ascending: bool,
        top: int,
        after: int,
        limit: int,
        columns: str = "",
    ) -> Iterable[tuple[int, ...]]:
        """Rowids of matches in time order, or columns of ``d``."""
        g = self._generation
        slots = self._layout.slots
        low = max(0, query.since - OVERRUN) * slots
        high = min(top, (query.until + overrun_of(self._db, g)) * slots if query.until else top)
        if after >= 0:
            low, high = (max(low, after + 1), high) if ascending else (low, min(high, after - 1))
        timed = query.since or query.until
        where: list[str] = []
        parameters: list[object] = []
        match = " AND ".join(part for part in (expression, scope.match) if part)
        if match:
            where.append(f"f.fts_{g} MATCH ?")
            parameters.append(match + scope.no_match)
        base = "f" if match else "d"
        where.append(f"{base}.rowid BETWEEN ? AND ?")
        parameters += [low, high]
        if scope.join:
            where.append(scope.join)
            parameters += scope.parameters
        if timed:
            where.append(f"{self._layout.time} >= ? AND (? = 0 OR {self._layout.time} < ?)")
            parameters += [query.since, query.until, query.until]
        source = f"docs_{g} d"
        if match:
            joined = f" CROSS JOIN docs_{g} d ON d.rowid = f.rowid" if scope.join or timed or columns else ""
            source = f"fts_{g} f{joined}"
        order = "ASC" if ascending else "DESC"
        columns = columns or f"{base}.rowid"
        sql = f"SELECT {columns} FROM {source} WHERE {' AND '.join(where)} ORDER BY {base}.rowid {order} LIMIT ?"
        return self._db.execute(sql, (*parameters, limit))

    def _hits(self, rowids: Sequence[int]) -> list[Hit]:
        g = self._generation
        columns = f"{self._layout.id}, c.name, d.seq, s.name, {self._layout.device}, {self._layout.time}"
        tables = f"docs_{g} d JOIN conversations_{g} c ON c.id = d.conversation JOIN senders_{g} s ON s.id = d.sender"
        sql = f"SELECT {columns} FROM {tables} WHERE d.rowid = ?"
        return [Hit(*self._db.execute(sql, (rowid,)).fetchone()) for rowid in rowids]

    # --- by relevance ------------------------------------------------------------------------------------------------

    def _by_relevance(self, query: Query, terms: list[Term], scope: Scope) -> Results:
        """Pages by number, over the same messages as the first page saw."""
        offset, top, mode = decode_cursor(query, 3) or (0, _NOW, -1)

        def newest(expression: str) -> list[int]:
            return self._rowids(query, scope, expression, False, top, limit=RANKED + 1)

        if mode < 0:
            found, typos = self._with_typos(terms, newest)
        else:
            typos = bool(mode)
            found = newest(self._expression(terms, typos))
        top = max(found, default=0)
        exact = len(found) <= RANKED
        del found[RANKED:]
        total = len(found)
        order = ranked(self._bodies(found), terms) if total > 1 else found
        page = order[offset : offset + query.limit]
        offset += query.limit
        following = encode_cursor(query, offset, top, int(typos)) if offset < total else ""
        return Results(self._hits(page), total, following, exact)

    def _bodies(self, rowids: Sequence[int]) -> list[tuple[int, str]]:
        sql = f"SELECT rowid, body FROM bodies_{self._generation} WHERE rowid IN (SELECT value FROM json_each(?))"
        return [(rowid, unpacked(body)) for rowid, body in self._db.execute(sql, (json.dumps(rowids),)).fetchall()]

    # --- terms -------------------------------------------------------------------------------------------------------

    def _with_typos(self, terms: list[Term], find: Callable[[str], list[int]]) -> tuple[list[int], bool]:
        """What matches as written, or, only where nothing does, what matches with typos; and whether it is the latter."""
        found = find(self._expression(terms, False))
        if found or not any(term.typos for term in terms):
            return found, False
        return find(self._expression(terms, True)), True

    def _expression(self, terms: Sequence[Term], typos: bool) -> str:
        return expression(self._db, self._generation, terms, typos)

    def _scope(self, query: Query) -> Scope:
        scope = scope_of(self._db, self._generation, self._layout, query)
        if scope.looks_up:
            self._permitted = self._rule(query)
        return scope

    def _rule(self, query: Query) -> Callable[[int], bool]:
        known: dict[int, bool] = {}

        def permitted(number: int) -> bool:
            answer = known.get(number)
            if answer is None:
                answer = known[number] = query.permits(self._name(number))
            return answer

        return permitted

    def begin(self) -> int:
        """Start the snapshot of one query, and its time limit."""
        self._deadline = time.monotonic() + self._seconds
        self._db.execute("BEGIN")
        self._generation = live_generation(self._db)
        self._layout = layout_of(self._db, self._generation)
        return self._generation

    def end(self) -> None:
        """Let go of the snapshot."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


class _Snapshot:
    """A read transaction on the live generation; SQLite's errors come out as `SearchUnavailable`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __enter__(self) -> int:
        try:
            return self._reader.begin()
        except sqlite3.Error as error:
            raise SearchUnavailable(f"search index: {error}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._reader.end()
        if isinstance(error, sqlite3.Error):
            text = "the query took too long" if "interrupted" in str(error) else f"search index: {error}"
            raise SearchUnavailable(text) from error
