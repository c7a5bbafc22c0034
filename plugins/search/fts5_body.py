"""A message's tokens as the embedded index keeps them: in few bytes. No I/O.

A row of tokens of one character each, as Chinese makes them, is written without spaces, behind a mark that is in no token.
What is shorter in UTF-16 than in UTF-8 is written so, as a BLOB: a Chinese character has two bytes there, not three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARK = "\x01"
_RUN = re.compile(r"(?<!\S)\S(?: \S)+(?!\S)")
_MARKED = re.compile(f"{_MARK}(\\S+)")


def packed(tokens: Sequence[str]) -> str | bytes:
    """The tokens as they are kept."""
    body = " ".join(tokens)
    if body.isascii():
        return body
    alone = len(body) == 2 * len(tokens) - 1 > 1
    body = _MARK + "".join(tokens) if alone else _RUN.sub(_joined, body)
    wide = body.encode("utf-16-le")
    return wide if len(wide) < len(body.encode()) else body


def unpacked(kept: str | bytes) -> str:
    """The tokens with spaces between them, also of what earlier versions kept, which was just that."""
    body = kept if isinstance(kept, str) else kept.decode("utf-16-le")
    return _MARKED.sub(_spaced, body) if _MARK in body else body


def _joined(run: re.Match[str]) -> str:
    return _MARK + run[0][::2]


def _spaced(run: re.Match[str]) -> str:
    return " ".join(run[1])
