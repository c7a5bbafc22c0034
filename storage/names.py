"""The order of names: by code points, which is the order of their UTF-8 bytes too."""

from __future__ import annotations

_LAST, _SURROGATES, _BEHIND = 0x10FFFF, 0xD800, 0xE000


def prefix_end(prefix: str) -> str:
    """The first name behind all that begin with ``prefix``; empty where there is none."""
    kept = prefix.rstrip(chr(_LAST))
    if not kept:
        return ""
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(_BEHIND if following == _SURROGATES else following)
