"""Text as search sees it: folding, tokens, payload text. Shared by every engine; no I/O here.

Rules, which index and query keep alike:

- Case, width, ligatures and accents don't count: NFKD, casefold, marks removed, NFC. Kana keep their voicing marks and
  Hangul its syllables, since there they make another word.
- A character of a script that writes no spaces between words (Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese) is a
  token of its own, so that a word is found inside a longer one. A run of them in a query is a phrase.
- So is a symbol: what Unicode calls one (emoji, arrows, mathematics, currency, box drawing, Braille, music), some signs that
  it calls punctuation (``§ ‰ ‼``), and code points without a meaning yet or with a private one. An emoji of several symbols
  (skin tone, joiner, keycap) is a phrase of them; the two letters of a flag are one token.
- ASCII symbols (``# $ % & + < = > @ ^``) are tokens in runs: ``C++`` is ``c`` and ``++``.
- Where anything stands between two such characters, a `BREAK` token keeps a phrase from reaching across it: a
  search for a word written without spaces finds exactly the texts that contain it.
- Anything else is cut into runs of letters and digits; punctuation only separates.

In a token a symbol is moved to the planes for private use (``+``, U+002B, to U+10002B), where one range has them all, and
where no engine takes them for separators.

Whoever changes what `tokens` answers raises `TOKENISER`: an index made by another version is rebuilt.

Over 300 lines: what a token is, and each way to find it (`cut`, `spans`), which must stay alike.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

TOKENISER = 2
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
    "\U000f0000-\U000fffff\U00100080-\U0010ffff"  # symbols, but those of ASCII
)
_ASCII_SYMBOL = "[\U00100000-\U0010007f]"
_FLAG_LETTER = "[\U000ff1e6-\U000ff1ff]"
_KEYCAP = "\u20e3"
_TAGS = frozenset(map(chr, range(0xE0020, 0xE0080)))
"""Invisible letters, which spell the flags of regions."""
_SIGNS = frozenset("#$%&+<=>@^§¶†‡‰‱※⁂‼‽⁇⁈⁉〰〽" + _KEYCAP) | _TAGS
"""What counts as a symbol, though Unicode calls it punctuation or a mark; and the symbols of ASCII."""
_NO_SIGNS = frozenset("`|~\u2044\ufffc\ufffd" + BREAK)
"""What does not, though Unicode calls it a symbol: it marks up text, divides ``½``, or stands for what is not there."""
_AS_WRITTEN = frozenset("‼⁇⁈⁉№™℠ℹⓂ㊗㊙\U0001f201\U0001f202\U0001f21a\U0001f22f\U0001f250\U0001f251") | frozenset(
    map(chr, range(0x1F232, 0x1F23B))
)
"""Signs and emoji that compatibility would take for the letters or marks that they show."""
_ACCENTS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20ff\ufe20-\ufe2f"
)
_INVISIBLE = "\u00ad\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
_JOINING = _ACCENTS + "\u1160-\u11ff\ud7b0-\ud7fb\u3099\u309a\uff9e\uff9f"


def _marks() -> str:
    """Combining marks that belong to words (vowel signs of Indic scripts and the like), as a character class."""
    kept = re.compile(f"[{_ACCENTS}{_SOLITARY}{_INVISIBLE}]")
    blocks = (*range(0x0300, 0x2000), *range(0xA66F, 0xAC00))
    return "".join(c for c in map(chr, blocks) if unicodedata.category(c) in ("Mn", "Mc") and not kept.match(c))


_DROPPED = re.compile(f"[{_ACCENTS}{_INVISIBLE}]+")
_INVISIBLES = re.compile(f"[{_INVISIBLE}]+")
_HAS_JOINING = re.compile(f"[{_JOINING}]")
_CLUSTER = re.compile(f"(?s:.)[{_JOINING}]*")
_SOLO = re.compile(f"[{_SOLITARY}]")
_WORD = f"[^\\W_{_SOLITARY}]"
_MARK = f"[{_marks()}]"
_GAP = re.compile(f"(?<=[{_SOLITARY}])(?:(?!{_MARK}|{_ASCII_SYMBOL})[\\W_](?<![{_SOLITARY}]))+(?=[{_SOLITARY}])")
_TOKEN = re.compile(f"{_FLAG_LETTER}{{2}}|[{_SOLITARY}{BREAK}]|(?:{_WORD}|{_MARK})+|{_ASCII_SYMBOL}+")
_ASCII_TOKEN = re.compile(f"[a-z0-9]+|{_ASCII_SYMBOL}+")


def _is_symbol(character: str) -> bool:
    if character in _SIGNS:
        return True
    return unicodedata.category(character) in ("So", "Sm", "Sc", "Sk", "Cn", "Co") and character not in _NO_SIGNS


def _moved(symbol: str) -> str:
    """A symbol as tokens have it. Some code points that mean nothing share their place with others."""
    code = ord(symbol)
    if code >= 0xF0000:
        return symbol
    return chr(0x100000 + code if code < 0x10000 else 0xF0000 | code & 0xFFFF)


def _fold(cluster: str) -> str:
    """One character and what joins it, folded."""
    if cluster[0] in _AS_WRITTEN:
        return _moved(cluster[0])
    whole = unicodedata.normalize("NFKC", _INVISIBLES.sub("", cluster))
    if len(whole) == 1 and _is_symbol(whole):
        return _moved(whole)  # ≠ is not an = with an accent
    spread = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", cluster).casefold())
    folded = unicodedata.normalize("NFC", _DROPPED.sub("", spread)).replace(BREAK, " ")
    return "".join([_moved(character) if _is_symbol(character) else character for character in folded])


class _Folds(dict[int, str]):
    """`str.translate` table that fills itself; at most one entry per character of Unicode."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = _fold(chr(code))
        return folded


_FOLDS = _Folds()


def fold(text: str) -> str:
    """Text with case, width, ligatures and accents taken away, and symbols moved."""
    if text.isascii():
        text = text.lower()
        for symbol, moved in _ASCII_SYMBOLS:  # most texts have few: ten looks are faster than a table
            if symbol in text:
                text = text.replace(symbol, moved)
        return text
    if _HAS_JOINING.search(text):
        folded = "".join([_FOLDS[ord(part)] if len(part) == 1 else _fold(part) for part in _CLUSTER.findall(text)])
    else:
        folded = text.translate(_FOLDS)
    return folded.replace(*_STAR_KEYCAP)


_ASCII_SYMBOLS = [(symbol, _moved(symbol)) for symbol in sorted(_SIGNS) if symbol.isascii()]
_STAR_KEYCAP = ("*" + _moved(_KEYCAP), _moved("*") + _moved(_KEYCAP))
"""Everywhere else ``*`` marks bold text."""


def tokens(text: str) -> list[str]:
    """The tokens of a text in order, at most `MAX_TOKENS`."""
    return joined(text).split()


# --- many texts --------------------------------------------------------------------------------------------------------

RUN = "\x01"
"""What a part of several tokens begins with. No token has any of these; `_END` and `_APART` are white space to Python."""
_RUNS = re.compile(f"{RUN}(\\S+)")
_LOOK = "\x00"
"""What cannot be told of one character alone is in the text: see `_looked_at`."""
_END = "\x1f"
_APART = "\n"
_SIGNS_BETWEEN = "\x03"


def _marked(character: str) -> str:
    """A character as `cut` needs it."""
    if _HAS_JOINING.match(character):
        return _LOOK
    return "".join([_of_kind(one) for one in _FOLDS[ord(character)]])


def _of_kind(folded: str) -> str:
    if folded == _moved(_KEYCAP) or re.match(_FLAG_LETTER, folded):
        return _LOOK
    if _SOLO.match(folded):
        return RUN + folded + _END
    if re.match(_ASCII_SYMBOL, folded):
        return _SIGNS_BETWEEN + folded + _SIGNS_BETWEEN
    return folded if _WORD_PART.match(folded) else _APART


class _Marks(dict[int, str]):
    """`str.translate` table that fills itself, as `_Folds`."""

    def __missing__(self, code: int) -> str:
        marked = self[code] = _marked(chr(code))
        return marked


_MARKS = _Marks()
_WORD_PART = re.compile(f"{_WORD}|{_MARK}")
_ASCII_MARKS = bytes(ord(_LOOK if len(marked := _marked(chr(code))) > 1 else marked) for code in range(128)).ljust(256)
_BROKEN = re.compile(f"{_APART}(?<={_END}{_APART}){_APART}*(?={RUN})")
"""What `_GAP` is, in a marked text. It begins with what is searched for fast."""
_ALONE = re.compile(r"(?<!\S)\S(?: \S)*(?!\S)")
"""Tokens of one character that follow each other."""


def cut(text: str) -> tuple[str, list[str]]:
    """The tokens of a text in order, at most `MAX_TOKENS`: as a text where anything between two is one or more ASCII characters
    that are no letters or digits; and in parts, where those of one character that follow each other may be one, behind `RUN`.

    Indexing does this for each message: a few passes over the text in C, and no step for each token.
    """
    if text.isascii():
        marked = text.encode().translate(_ASCII_MARKS).decode()
        parts = marked.split()
    else:
        marked = text.translate(_MARKS)
        if _APART in marked:
            marked = _BROKEN.sub(RUN + BREAK + _END, marked)
        if _SIGNS_BETWEEN in marked:
            marked = marked.replace(_SIGNS_BETWEEN * 2, "").replace(_SIGNS_BETWEEN, " ")
        parts = marked.replace(_END + RUN, "").replace(RUN, " " + RUN).split()
    if _LOOK in marked or (len(marked) > MAX_WORD and _too_much(marked, parts)):
        marked = " ".join(_looked_at(text))
        parts = _ALONE.sub(_run, marked).split()
    return marked, parts


def joined(text: str) -> str:
    """The tokens of a text, with a space between two."""
    return spread(" ".join(cut(text)[1]))


def spread(parts: str) -> str:
    """The tokens of parts that have a space between two."""
    return _RUNS.sub(_spaced, parts) if RUN in parts else parts


def _spaced(run: re.Match[str]) -> str:
    return " ".join(run[1])


def _too_much(marked: str, parts: list[str]) -> bool:
    """Whether there may be more tokens, or is a longer word, than count."""
    if len(marked) > MAX_TOKENS:
        return True
    return max(map(len, parts), default=0) > MAX_WORD and any(len(part) > MAX_WORD and part[0] != RUN for part in parts)


def _run(alone: re.Match[str]) -> str:
    return RUN + alone[0][::2]


def _looked_at(text: str) -> list[str]:
    """The tokens of any text."""
    folded = fold(text)
    found = _ASCII_TOKEN.findall(folded) if text.isascii() else _TOKEN.findall(_GAP.sub(BREAK, folded))
    if len(found) > MAX_TOKENS:
        del found[MAX_TOKENS:]
    if len(folded) > MAX_WORD and max(map(len, found), default=0) > MAX_WORD:
        return [token[:MAX_WORD] for token in found]
    return found


def solitary(token: str) -> bool:
    """Whether the token is a character of a script without spaces, a symbol, a flag, or the break between two of them."""
    return token == BREAK or _SOLO.match(token) is not None


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
    return "".join(parts).replace(*_STAR_KEYCAP), places


# --- what a payload says ---------------------------------------------------------------------------------------------


def payload_text(payload: bytes) -> str:
    """What of a payload is searched: UTF-8 text as it is, the text values of JSON (a line each), nothing of anything else."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return ""
    if "\0" in text:
        return ""
    if text.lstrip().startswith(("{", "[", '"')):
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
