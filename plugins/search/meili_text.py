"""Texts and queries as Meilisearch is given them. No I/O.

Meilisearch does not find a Chinese word inside a longer one by itself. So it gets a derived field, ``grams``: our tokens,
joined by spaces; and a phrase of a query is sent in quotes. Symbols, which it takes for separators, are sent as words. Text
itself is not sent.

Its phrases have no prefixes, and its prefixes forgive typos where ours do not: a query that ends in such a one is asked with
the last word on its own, and what comes back needs a look (`needs_a_look`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugins.search.terms import ONE_TYPO, Term
from plugins.search.text import BREAK, tokens

_SYMBOL = re.compile("[\U000f0000-\U0010ffff]")


def grams(text: str) -> str:
    """Our tokens as Meilisearch will cut them again: a full stop is a separator that no phrase reaches across."""
    return sent(["." if token == BREAK else token for token in tokens(text)])


def sent(found: Sequence[str]) -> str:
    """Tokens with spaces between them, and symbols as words that nobody writes."""
    return _SYMBOL.sub(lambda symbol: f"ƾ{ord(symbol[0]):06x}", " ".join(found))


def query_text(terms: Sequence[Term]) -> str:
    """The terms in Meilisearch's query language."""
    parts = []
    for term in terms:
        alone = 1 if term.prefix or term.typos else 0
        size = len(term.tokens) - alone
        parts += [f'"{sent(run)}"' for run in _runs(term.tokens[:size])]
        parts += [sent([token]) for token in term.tokens[size:]]
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


def needs_a_look(terms: Sequence[Term]) -> bool:
    """Whether the server finds too much for a query: what it ends in is a phrase, or a word that forgives no typo."""
    if not terms or not terms[-1].prefix:
        return False
    last = terms[-1]
    return len(last.tokens) > 1 or (not last.typos and len(sent(last.tokens)) >= ONE_TYPO)
