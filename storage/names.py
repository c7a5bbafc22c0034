"""The order of names: by code points, which is the order of their UTF-8 bytes too. And how many of them make a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PARTS = 1000
"""Names of one page: where each has the 64 KB that one may have, they are cut into pages of 1 MiB."""

_LAST, _SURROGATES, _BEHIND = 0x10FFFF, 0xD800, 0xE000


def prefix_end(prefix: str) -> str:
    """The first name behind all that begin with ``prefix``; empty where there is none."""
    kept = prefix.rstrip(chr(_LAST))
    if not kept:
        return ""
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(_BEHIND if following == _SURROGATES else following)


def pages_of_names(names: Sequence[str], limit: int, max_bytes: int = 1 << 20) -> Iterator[list[str]]:
    """Names in pages of up to ``limit``, each up to the name with which it would have more than ``max_bytes``."""
    page: list[str] = []
    size = 0
    for name in names:
        size += len(name.encode())
        if page and (size > max_bytes or len(page) == limit):
            yield page
            page, size = [], len(name.encode())
        page.append(name)
    if page:
        yield page
