"""What a text must have to match, as tantivy's queries; and which of those that match are the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tantivy
from tantivy import Query

from plugins.search.terms import Term

MUST, SHOULD, MUST_NOT = tantivy.Occur.Must, tantivy.Occur.Should, tantivy.Occur.MustNot


def all_of(*queries: Query) -> Query:
    """What every one of them finds. How good a match is, is told elsewhere."""
    return Query.boolean_query([(MUST, Query.const_score_query(query, 0.0)) for query in queries])


def matching(searcher: tantivy.Searcher, schema: tantivy.Schema, term: Term, typos: bool) -> Query:
    """What has a term; with ``typos`` also what has a word that may have been meant."""
    if typos and term.typos:
        return Query.fuzzy_term_query(schema, "body", term.tokens[0], term.typos)
    *first, last = term.tokens
    if not term.prefix:
        return _phrase(schema, term.tokens)
    if not first:
        return Query.regex_query(schema, "body", f"{last}.*")  # tokens have no signs that mean anything there
    query = Query.regex_phrase_query(schema, "body", [*first, f"{last}.*"])
    try:
        searcher.search(query, 1)
    except ValueError:  # more words begin so than it takes: only those that stand in a text with the others
        words = searcher.terms_with_prefix("body", last, _phrase(schema, first))
        return Query.boolean_query([(SHOULD, _phrase(schema, [*first, word])) for word, _ in words])
    return query


def _phrase(schema: tantivy.Schema, words: Sequence[str]) -> Query:
    if len(words) == 1:
        return Query.term_query(schema, "body", words[0], "freq")
    return Query.phrase_query(schema, "body", list(words))


def ranked(
    searcher: tantivy.Searcher,
    schema: tantivy.Schema,
    found: Sequence[tuple[int, tantivy.DocAddress]],
    matches: Query,
    terms: Sequence[Term],
) -> list[tuple[int, tantivy.DocAddress]]:
    """Matches by key and address, given by falling key, the best first: terms often in a short text, whole words before
    prefixes, words together before words apart.

    Rarity of a term plays no part: every match has every term, and statistics of the whole index would tell of messages that
    the caller may not read. So tantivy's own order is not used, only how often it says that a word is there.

    ``matches`` finds these, and others only of the last one's key.
    """
    sizes: list[Any] = searcher.fast_field_values("size", [address for _, address in found])
    places = {(address.segment_ord, address.doc): at for at, (_, address) in enumerate(found)}
    mean = 1 + sum(sizes) / len(sizes)
    dampings = [0.4 + 0.8 * size / mean for size in sizes]
    scores = [0.0] * len(found)
    if len(terms) > 1:
        together = Term(tuple(token for term in terms for token in term.tokens), terms[-1].prefix)
        query = all_of(matches, matching(searcher, schema, together, False))
        for _, address in searcher.search(query, len(found)).hits:
            if (at := places.get((address.segment_ord, address.doc))) is not None:
                scores[at] = 1.0
    for term in terms:
        often = _frequencies(searcher, matches, _phrase(schema, term.tokens), places, sizes)
        for at, (whole, damping) in enumerate(zip(often, dampings, strict=True)):
            if term.prefix:
                count = max(1.0, whole)
                scores[at] += 0.6 * count / (count + damping) + 0.4 * whole / (whole + damping)
            else:
                scores[at] += whole / (whole + damping)
    order = sorted(range(len(found)), key=lambda at: (-scores[at], at))  # among equals, the newest first, as they came
    return [found[at] for at in order]


def _frequencies(
    searcher: tantivy.Searcher, matches: Query, query: Query, places: dict[tuple[int, int], int], sizes: Sequence[int]
) -> list[float]:
    """How often each match has a phrase. Of those of one size and one score of tantivy's, the reasons of one are read."""
    both = Query.boolean_query([(MUST, query), (MUST, matches)])
    known: dict[tuple[float, int], float] = {}
    found = [0.0] * len(sizes)
    for score, address in searcher.search(both, len(sizes)).hits:
        at = places.get((address.segment_ord, address.doc))
        if at is None:
            continue
        often = known.get((score, sizes[at]))
        if often is None:
            often = known[score, sizes[at]] = _frequency(json.loads(query.explain(searcher, address).to_json()))
        found[at] = often
    return found


def _frequency(reason: dict[str, Any]) -> float:
    if reason["description"].startswith("freq,"):
        return float(reason["value"])
    return max((_frequency(detail) for detail in reason.get("details", ())), default=0.0)
