"""Text as search sees it: folding, tokens, payload text. Shared by every engine; no I/O here.

Rules, which index and query keep alike:

- Case, width, ligatures and accents don't count: NFKD, casefold, marks removed, NFC. Kana keep their voicing marks and
  Hangul its syllables, since there they make another word.
- A character of a script that writes no spaces between words (Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese) and an
  emoji is a token of its own, so that a word is found inside a longer one. A run of them in a query is a phrase.
- Where anything stands between two such characters, a `BREAK` token keeps a phrase from reaching across it: a
  search for a word written without spaces finds exactly the texts that contain it.
- Anything else is cut into runs of letters and digits.

Whoever changes what `tokens` answers raises `TOKENISER`: an index made by another version is rebuilt.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

TOKENISER = 1
"""Version of `tokens`."""

BREAK = "\ue000"
"""The token between two solitary characters that do not touch (private use: no text's own token)."""

MAX_TOKENS = 20_000
"""Tokens of one message that are indexed; the rest of a longer text is not searchable."""

MAX_WORD = 64
"""Characters of a word that count."""

_SOLITARY = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u1000-\u109f\u1780-\u17d3"  # Thai, Lao, Burmese, Khmer
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"  # Hangul
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u2e80-\u2fdf\u3105-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uf900-\ufaff"
    "\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
    "\u2600-\u27bf\U0001f000-\U0001faff"  # symbols and emoji
)
_ACCENTS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_INVISIBLE = "\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff"
_JOINING = _ACCENTS + "\u1160-\u11ff\ud7b0-\ud7fb\u3099\u309a\uff9e\uff9f"


def _marks() -> str:
    """Combining marks that belong to words (vowel signs of Indic scripts and the like), as a character class."""
    kept = re.compile(f"[{_ACCENTS}{_SOLITARY}{_INVISIBLE}]")
    blocks = (*range(0x0300, 0x2000), *range(0xA66F, 0xAC00))
    return "".join(c for c in map(chr, blocks) if unicodedata.category(c) in ("Mn", "Mc") and not kept.match(c))


_DROPPED = re.compile(f"[{_ACCENTS}{_INVISIBLE}]+")
_HAS_JOINING = re.compile(f"[{_JOINING}]")
_CLUSTER = re.compile(f"(?s:.)[{_JOINING}]*")
_SOLO = re.compile(f"[{_SOLITARY}]")
_WORD = f"[^\\W_{_SOLITARY}]"
_MARK = f"[{_marks()}]"
_GAP = re.compile(f"(?<=[{_SOLITARY}])(?:(?!{_MARK})[\\W_](?<![{_SOLITARY}]))+(?=[{_SOLITARY}])")
_TOKEN = re.compile(f"[{_SOLITARY}{BREAK}]|(?:{_WORD}|{_MARK})+")
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")


def _fold(cluster: str) -> str:
    """One character and what joins it, folded."""
    spread = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", cluster).casefold())
    return unicodedata.normalize("NFC", _DROPPED.sub("", spread)).replace(BREAK, " ")


class _Folds(dict[int, str]):
    """`str.translate` table that fills itself; at most one entry per character of Unicode."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = _fold(chr(code))
        return folded


_FOLDS = _Folds()


def fold(text: str) -> str:
    """Text with case, width, ligatures and accents taken away."""
    if text.isascii():
        return text.lower()
    if _HAS_JOINING.search(text):
        return "".join(map(_fold, _CLUSTER.findall(text)))
    return text.translate(_FOLDS)


def tokens(text: str) -> list[str]:
    """The tokens of a text in order, at most `MAX_TOKENS`."""
    found = _ASCII_TOKEN.findall(text.lower()) if text.isascii() else _TOKEN.findall(_GAP.sub(BREAK, fold(text)))
    if len(found) > MAX_TOKENS:
        del found[MAX_TOKENS:]
    if max(map(len, found), default=0) > MAX_WORD:
        return [token[:MAX_WORD] for token in found]
    return found


def solitary(token: str) -> bool:
    """Whether the token is a single character of a script without spaces, or the break between two."""
    return len(token) == 1 and (token == BREAK or _SOLO.match(token) is not None)


class Span(NamedTuple):
    """A token and where it stands in the original text."""

    token: str
    start: int
    end: int


def spans(text: str) -> Iterator[Span]:
    """The tokens of a text as `tokens` gives them, with their places in the text as it was written."""
    folded, places = _placed(text)
    previous_end, previous_solo = -1, False
    for match in _TOKEN.finditer(folded):
        start, end = match.span()
        token = match.group()[:MAX_WORD]
        solo = solitary(token)
        if solo and previous_solo and start != previous_end:
            yield Span(BREAK, places[previous_end - 1][1], places[start][0])
        yield Span(token, places[start][0], places[end - 1][1])
        previous_end, previous_solo = end, solo


def _placed(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The folded text, and for each of its characters the stretch of the original that it comes from."""
    parts, places, at = [], [], 0
    for cluster in _CLUSTER.findall(text):
        folded = _FOLDS[ord(cluster)] if len(cluster) == 1 else _fold(cluster)
        end = at + len(cluster)
        parts.append(folded)
        places.extend([(at, end)] * len(folded))
        at = end
    return "".join(parts), places


# --- what a payload says ---------------------------------------------------------------------------------------------


def payload_text(payload: bytes) -> str:
    """What of a payload is searched: UTF-8 text as it is, the text values of JSON (a line each), nothing of anything else."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return ""
    if "\0" in text:
        return ""
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            value = json.loads(text, parse_int=_unread, parse_float=_unread, parse_constant=_unread)
        except (ValueError, RecursionError):
            return text
        return scrub("\n".join(_text_values(value)))
    return text


def _unread(_: str) -> None:
    """Numbers are not searched, and a number of ten thousand digits is not worth the time."""


def _text_values(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, dict):
            stack.extend(reversed(top.values()))
        elif isinstance(top, list):
            stack.extend(reversed(top))


def scrub(text: str) -> str:
    """Text without lone surrogates, which JSON escapes can spell and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
