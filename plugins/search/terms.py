"""What a query asks for, what a text must have to match it, and where it does: for every engine; no I/O here.

A query is words and "phrases", all of which a message must have:

- the last word also matches as a prefix, unless white space or a closing quote follows it;
- a run of characters of a script without spaces between words (Chinese and the like), and a word that punctuation cuts
  (``a@b.c``), is a phrase;
- a word of 5 letters or more forgives one typo, of 9 or more two, where nothing matches it as written. Digits forgive nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plugins.search.text import BREAK, Span, scrub, solitary, spans, tokens

MAX_TERMS = 10
"""Terms of a query that count, which is also Meilisearch's limit; what follows is ignored."""

ONE_TYPO, TWO_TYPOS = 5, 9
"""Letters from which on a word forgives one typo, and two."""

_QUOTES = re.compile('["“”„‟«»＂]')


class Term(NamedTuple):
    """Tokens that must stand next to each other; ``prefix`` lets the last one be the beginning of a longer word."""

    tokens: tuple[str, ...]
    prefix: bool = False
    typos: int = 0


def parse(q: str) -> list[Term]:
    """The terms of a query, at most `MAX_TERMS`; empty where it has no letter or digit."""
    terms: list[Term] = []
    parts = _QUOTES.split(scrub(q))
    for number, part in enumerate(parts):
        if number % 2:
            terms.append(Term(tuple(tokens(part))))
            continue
        words = part.split()
        open_end = number == len(parts) - 1 and part[-1:].strip() != ""
        for place, word in enumerate(words):
            terms.extend(_word_terms(word, open_end and place == len(words) - 1))
    return list(dict.fromkeys(term for term in terms if any(token != BREAK for token in term.tokens)))[:MAX_TERMS]


def _word_terms(word: str, last: bool) -> Iterator[Term]:
    """The terms of what was typed without a space: one, or several where punctuation or a prefix cuts it."""
    run: list[str] = []
    for token in tokens(word):
        if token == BREAK:
            yield Term(tuple(run))
            run = []
        else:
            run.append(token)
    if not run:
        return
    if last and not solitary(run[-1]):
        if run[:-1]:
            yield Term(tuple(run[:-1]))
        yield Term((run[-1],), prefix=True, typos=typos_allowed(run[-1]))
    else:
        yield Term(tuple(run), typos=typos_allowed(run[0]) if len(run) == 1 else 0)


def typos_allowed(word: str) -> int:
    """How many typos a word forgives."""
    if len(word) < ONE_TYPO or not word.isalpha():
        return 0
    return 1 if len(word) < TWO_TYPOS else 2


def near(word: str, other: str, typos: int) -> bool:
    """Whether a word is at most ``typos`` insertions, deletions, replacements or swaps of neighbours away from the other."""
    if abs(len(word) - len(other)) > typos:
        return False
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        following = [i]
        for j, against in enumerate(other, 1):
            cost = min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and word[i - 2] == against:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        if min(following) > typos:
            return False
        before, row = row, following
    return row[-1] <= typos


# --- highlights ------------------------------------------------------------------------------------------------------

MARK, UNMARK = "<mark>", "</mark>"
SNIPPET = 240
"""Characters of a message that a highlight shows."""

_LEAD = 60
_LOOKED_AT = 50_000


def highlight(text: str, terms: Sequence[Term], width: int = SNIPPET) -> str:
    """The part of a text around its first match, as HTML: escaped first, then each match in ``<mark>``.

    Shows at most ``width`` characters, with an ellipsis where more were cut. A text without a match shows its beginning.
    """
    text = scrub(text[:_LOOKED_AT])
    places = matches(text, terms)
    start, end = _window(text, places[0] if places else (0, 0), width)
    parts, at = ["…" if start else ""], start
    for left, right in places:
        left, right = max(left, start), min(right, end)
        if left < right:
            parts += [html.escape(text[at:left]), MARK, html.escape(text[left:right]), UNMARK]
            at = right
    parts += [html.escape(text[at:end]), "…" if end < len(text) else ""]
    return "".join(parts)


def _window(text: str, first: tuple[int, int], width: int) -> tuple[int, int]:
    if len(text) <= width:
        return 0, len(text)
    start = max(0, min(first[0] - min(_LEAD, width // 4), len(text) - width))
    space = text.rfind(" ", max(0, start - 20), start + 1)
    if start and space >= 0 and first[0] < space + 1 + width:
        start = space + 1
    return start, min(len(text), start + width)


def matches(text: str, terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Where the terms stand in a text: ranges by rising start that don't overlap."""
    found: list[tuple[int, int]] = []
    if terms:
        placed = list(spans(text))
        for term in terms:
            found.extend(_term_matches(placed, term))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _term_matches(placed: list[Span], term: Term) -> list[tuple[int, int]]:
    *first, last = term.tokens
    size = len(term.tokens)
    found = []
    for at in range(size - 1, len(placed)):
        token = placed[at].token
        if token != last and not (term.prefix and token.startswith(last)):
            continue
        begin = at - size + 1
        if all(placed[begin + i].token == wanted for i, wanted in enumerate(first)):
            found.append((placed[begin].start, placed[at].end))
    if not found and term.typos:
        found = [(span.start, span.end) for span in placed if near(last, span.token, term.typos)]
    return found
