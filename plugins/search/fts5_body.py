"""A message's tokens as the embedded index keeps them: in few bytes. No I/O.

A row of tokens of one character each, as Chinese makes them, is written without spaces, behind a mark that is in no token.
What is shorter in UTF-16 than in UTF-8 is written so, as a BLOB: a Chinese character has two bytes there, not three.
"""

from __future__ import annotations

from collections.abc import Sequence

from plugins.search.text import spread


def packed(parts: Sequence[str]) -> str | bytes:
    """The tokens as they are kept, from their parts (`plugins.search.text.cut`)."""
    body = " ".join(parts)
    if body.isascii():
        return body
    wide = body.encode("utf-16-le")
    return wide if len(wide) < len(body.encode()) else body


def unpacked(kept: str | bytes) -> str:
    """The tokens with spaces between them, also of what earlier versions kept, which was just that."""
    return spread(kept if isinstance(kept, str) else kept.decode("utf-16-le"))
