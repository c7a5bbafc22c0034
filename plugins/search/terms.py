"""What a query asks for, what a text must have to match it, and where it does: for every engine; no I/O here.

A query is words and "phrases", all of which a message must have:

- what was typed without a space is a phrase (``a@b.c``, ``AB-1234``, ``会议``), except that punctuation between two symbols
  or two characters of a script without spaces (Chinese and the like) stands for a space;
- the last word, or the last part of one, also matches as a prefix, unless white space or a closing quote follows it, or it is
  the end of a contraction (``can't``);
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

_CONTRACTED = re.compile("['’ʼ＇](?:[dmst]|ll|re|ve)$", re.IGNORECASE)
"""As a prefix, the end of ``can't`` would find "can take"."""
_QUOTES = re.compile('["“”„‟«»＂]')


class Term(NamedTuple):
    """Tokens that must stand next to each other; ``prefix`` lets the last one be the beginning of a longer word."""

    tokens: tuple[str, ...]
    prefix: bool = False
    typos: int = 0


def parse(q: str) -> list[Term]:
    """The terms of a query, at most `MAX_TERMS`; empty where it has no letter, digit or symbol."""
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
    """The terms of what was typed without a space: one, or several where a break cuts it."""
    runs: list[list[str]] = [[]]
    for token in tokens(word):
        if token == BREAK:
            runs.append([])
        else:
            runs[-1].append(token)
    *first, run = (tuple(run) for run in runs)
    yield from map(Term, first)
    if run:
        prefix = last and not solitary(run[-1]) and not _CONTRACTED.search(word)
        yield Term(run, prefix, typos_allowed(run[0]) if len(run) == 1 else 0)


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
    size = len(term.tokens)
    found = [
        (placed[at].start, placed[at + size - 1].end)
        for at in phrase_places([span.token for span in placed], term.tokens, term.prefix)
    ]
    if not found and term.typos:
        found = [(span.start, span.end) for span in placed if near(term.tokens[-1], span.token, term.typos)]
    return found


def phrase_places(found: Sequence[str], phrase: Sequence[str], prefix: bool) -> list[int]:
    """Where in the tokens of a text those of a phrase stand next to each other; with ``prefix`` the last may be longer."""
    *first, last = phrase
    size = len(first)
    return [
        at - size
        for at in range(size, len(found))
        if (found[at] == last or (prefix and found[at].startswith(last))) and list(found[at - size : at]) == first
    ]
