"""Queries over the embedded index. Runs in the engine's reader threads; each query sees one snapshot.

Permission and filters are part of the search itself, so that nothing else is ever counted, ranked or paged over:

- up to `TERMS` conversations, and a sender, are terms of the FTS expression;
- more conversations, as far as they can be listed, are a set that each match is joined with;
- where a wildcard spans more conversations than are worth listing, each match's conversation is looked at, once per query.

Which conversations must be asked about before (`Reader.unasked`) is read from the matches themselves.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from plugins.search.engine import MAX_TOTAL, Hit, Query, Results, SearchUnavailable, decode_cursor, encode_cursor
from plugins.search.fts5_index import SLOTS, live_generation
from plugins.search.terms import Term, near, parse

TERMS = 128
"""Conversations that are filtered by as terms; more are joined, which from about 200 on is faster."""

LISTED = 5000
"""Conversations that a rule is asked about before the search; where there are more, it is asked about each match's."""

RANKED = MAX_TOTAL
"""Relevance ranks this many matches, the newest ones. With twice as many, frequent words took twice the processor time."""

_LOOKED_AT = 256
"""Matches whose conversations are looked at before those that were met are left out of the matches."""

_OVERRUN = 1000
"""Milliseconds by which a row may be late in rowid order because its own ms was full; its ``time`` then decides."""
_NOW = (1 << 62) - 1
"""Above every rowid."""


class _Scope(NamedTuple):
    """Where a query looks: ``match`` is an FTS expression, ``no_match`` is taken from it, ``join`` is SQL over ``d``;
    ``nothing`` says that there is nothing."""

    match: str = ""
    join: str = ""
    parameters: tuple[object, ...] = ()
    nothing: bool = False
    no_match: str = ""

    def without(self, numbers: Sequence[int], matched: bool) -> _Scope:
        """The same without some conversations. ``matched``: whether there is an FTS expression to take them from."""
        if not numbers:
            return self
        if matched and len(numbers) <= TERMS:
            return self._replace(no_match=f" NOT conversation : ({' OR '.join(f'c{number}' for number in numbers)})")
        left = "d.conversation NOT IN (SELECT value FROM json_each(?))"
        join = f"{self.join} AND {left}" if self.join else left
        return self._replace(join=join, parameters=(*self.parameters, json.dumps(list(numbers))))


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
            sql = f"SELECT id FROM docs_{g} WHERE conversation = {conversation} AND seq BETWEEN ? AND ? LIMIT ?"
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
        scope: _Scope,
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

    def _by_time(self, query: Query, terms: list[Term], scope: _Scope) -> Results:
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

    def _newest(self, query: Query, scope: _Scope, expression: str) -> int:
        """The newest match. Later pages go up to it, and not to the newest message of the index: cursors can be read."""
        return max(self._rowids(query, scope, expression, False, _NOW, limit=1), default=0)

    def _rowids(
        self,
        query: Query,
        scope: _Scope,
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
        scope: _Scope,
        expression: str,
        ascending: bool,
        top: int,
        after: int,
        limit: int,
        columns: str = "",
    ) -> Iterable[tuple[int, ...]]:
        """Rowids of matches in time order, or columns of ``d``."""
        g = self._generation
        low, high = query.since * SLOTS, min(top, (query.until + _OVERRUN) * SLOTS if query.until else top)
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
            where.append("d.time >= ? AND (? = 0 OR d.time < ?)")
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
        columns = "d.id, c.name, d.seq, s.name, d.device, d.time"
        tables = f"docs_{g} d JOIN conversations_{g} c ON c.id = d.conversation JOIN senders_{g} s ON s.id = d.sender"
        sql = f"SELECT {columns} FROM {tables} WHERE d.rowid = ?"
        return [Hit(*self._db.execute(sql, (rowid,)).fetchone()) for rowid in rowids]

    # --- by relevance ------------------------------------------------------------------------------------------------

    def _by_relevance(self, query: Query, terms: list[Term], scope: _Scope) -> Results:
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
        ranked = self._ranked(found, terms) if total > 1 else found
        page = ranked[offset : offset + query.limit]
        offset += query.limit
        following = encode_cursor(query, offset, top, int(typos)) if offset < total else ""
        return Results(self._hits(page), total, following, exact)

    def _ranked(self, rowids: Sequence[int], terms: Sequence[Term]) -> list[int]:
        """The best first: terms often in a short text, whole words before prefixes, words together before words apart.

        Rarity of a term plays no part: every match has every term, and statistics of the whole index would tell of messages
        that the caller may not read.
        """
        sql = f"SELECT rowid, body FROM bodies_{self._generation} WHERE rowid IN (SELECT value FROM json_each(?))"
        bodies = self._db.execute(sql, (json.dumps(rowids),)).fetchall()
        mean = 1 + sum(len(body) for _, body in bodies) / max(1, len(bodies))
        needles = [(f" {' '.join(term.tokens)}{'' if term.prefix else ' '}", term.prefix) for term in terms]
        together = " " + " ".join(" ".join(term.tokens) for term in terms) if len(terms) > 1 else ""
        scored = []
        for rowid, body in bodies:
            padded = f" {body} "
            damping = 0.4 + 0.8 * len(body) / mean
            score = 1.0 if together and together in padded else 0.0
            for needle, prefix in needles:
                count = padded.count(needle)
                if prefix and count:
                    whole = padded.count(f"{needle} ")
                    score += 0.6 * count / (count + damping) + 0.4 * whole / (whole + damping)
                else:
                    score += count / (count + damping)
            scored.append((-score, -rowid))
        scored.sort()
        return [-rowid for _, rowid in scored]

    # --- terms -------------------------------------------------------------------------------------------------------

    def _with_typos(self, terms: list[Term], find: Callable[[str], list[int]]) -> tuple[list[int], bool]:
        """What matches as written, or, only where nothing does, what matches with typos; and whether it is the latter."""
        found = find(self._expression(terms, False))
        if found or not any(term.typos for term in terms):
            return found, False
        return find(self._expression(terms, True)), True

    def _expression(self, terms: Sequence[Term], typos: bool) -> str:
        parts = []
        for term in terms:
            wanted = _quoted(term.tokens) + (" *" if term.prefix else "")
            if typos and term.typos:
                wanted = "(" + " OR ".join([wanted, *(_quoted([word]) for word in self._alternatives(term))]) + ")"
            parts.append(wanted)
        return f"body : ({' AND '.join(parts)})" if parts else ""

    def _alternatives(self, term: Term) -> list[str]:
        """Words of the index that the term may have meant: the same first letter, and few typos.

        All of them, up to the query's time limit: the list is of the whole index, and if some were left out, somebody could
        fill it up to its end and see by what falls out of it which words others write.
        """
        (word,) = term.tokens
        letters, most = _letters(word), 2 * term.typos
        sql = f"SELECT word FROM words_{self._generation} WHERE first = ? AND length BETWEEN ? AND ?"
        found = self._db.execute(sql, (word[0], len(word) - term.typos, len(word) + term.typos))
        return [
            candidate
            for (candidate,) in found
            if (letters ^ _letters(candidate)).bit_count() <= most and candidate != word and near(word, candidate, term.typos)
        ]

    # --- filters and permission --------------------------------------------------------------------------------------

    def _scope(self, query: Query) -> _Scope:
        sender = ""
        if query.sender:
            row = self._db.execute(f"SELECT id FROM senders_{self._generation} WHERE name = ?", (query.sender,)).fetchone()
            if row is None:
                return _Scope(nothing=True)
            sender = f"sender : s{row[0]}"
        if not query.restricted:
            return _Scope(match=sender)
        numbers = self._listed(query)
        if numbers is None:
            self._permitted = self._rule(query)
            return _Scope(sender, "permitted(d.conversation)")
        if not numbers:
            return _Scope(nothing=True)
        if len(numbers) <= TERMS:
            conversations = f"conversation : ({' OR '.join(f'c{number}' for number in numbers)})"
            return _Scope(" AND ".join(part for part in (conversations, sender) if part))
        return _Scope(sender, "d.conversation IN (SELECT value FROM json_each(?))", (json.dumps(numbers),))

    def _listed(self, query: Query) -> list[int] | None:
        """The numbers of the conversations that the query may see; None where they are too many to ask about."""
        table = f"conversations_{self._generation}"
        named = query.named_topics()
        if named is not None:
            sql = f"SELECT id, name FROM {table} WHERE name IN (SELECT value FROM json_each(?))"
            rows = self._db.execute(sql, (json.dumps(list(named)),)).fetchall()
        else:
            start = _literal(query.topic_filter)
            sql = f"SELECT id, name FROM {table} WHERE name >= ? AND name < ? LIMIT ?"
            rows = self._db.execute(sql, (start, start + "\U0010ffff", LISTED + 1)).fetchall()
            if len(rows) > LISTED:
                return None
        return [number for number, name in rows if query.permits(name)]

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


def _quoted(tokens: Sequence[str]) -> str:
    # Tokens hold letters, digits, marks and private characters only: nothing to escape.
    return f'"{" ".join(tokens)}"'


def _letters(word: str) -> int:
    """Which letters a word has, as bits: one typo changes at most two of them."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 63)
    return bits


def _literal(topic_filter: str) -> str:
    """What every topic that the filter matches begins with."""
    levels = topic_filter.split("/")
    for at, level in enumerate(levels):
        if level in ("+", "#"):
            return "/".join(levels[:at])
    return topic_filter
