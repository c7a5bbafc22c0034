"""What a text must have to match, as an FTS expression; and which of those that match are the best."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from plugins.search.terms import Term, near


def expression(db: sqlite3.Connection, generation: int, terms: Sequence[Term], typos: bool) -> str:
    """The FTS expression of what a text must have; with ``typos`` also of the words that may have been meant."""
    parts = []
    for term in terms:
        wanted = _quoted(term.tokens) + (" *" if term.prefix else "")
        if typos and term.typos:
            wanted = "(" + " OR ".join([wanted, *(_quoted([word]) for word in _alternatives(db, generation, term))]) + ")"
        parts.append(wanted)
    return f"body : ({' AND '.join(parts)})" if parts else ""


def _alternatives(db: sqlite3.Connection, generation: int, term: Term) -> list[str]:
    """Words of the index that the term may have meant: the same first letter, and few typos.

    All of them, up to the query's time limit: the list is of the whole index, and if some were left out, somebody could
    fill it up to its end and see by what falls out of it which words others write.
    """
    (word,) = term.tokens
    letters, most = _letters(word), 2 * term.typos
    sql = f"SELECT word FROM words_{generation} WHERE first = ? AND length BETWEEN ? AND ?"
    found = db.execute(sql, (word[0], len(word) - term.typos, len(word) + term.typos))
    return [
        candidate
        for (candidate,) in found
        if (letters ^ _letters(candidate)).bit_count() <= most and candidate != word and near(word, candidate, term.typos)
    ]


def _quoted(tokens: Sequence[str]) -> str:
    # Tokens hold letters, digits, marks and private characters only: nothing to escape.
    return f'"{" ".join(tokens)}"'


def _letters(word: str) -> int:
    """Which letters a word has, as bits: one typo changes at most two of them."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 63)
    return bits


def ranked(bodies: Sequence[tuple[int, str]], terms: Sequence[Term]) -> list[int]:
    """Rowids, the best first: terms often in a short text, whole words before prefixes, words together before words apart.

    Rarity of a term plays no part: every match has every term, and statistics of the whole index would tell of messages
    that the caller may not read.
    """
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
