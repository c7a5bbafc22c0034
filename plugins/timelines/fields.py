"""The names in a request. One that means nothing, or comes twice, is refused: ignored, it would change the answer unseen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.config import suggest
from plugins.timelines.errors import Unprocessable


def unknown(kind: str, name: str, known: Iterable[str]) -> Unprocessable:
    """``limt: unknown query parameter, did you mean 'limit'?``, or what there is."""
    return Unprocessable(f"{name[:80]}: unknown {kind}{suggest(name[:80], known, 'this call takes none')}")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for `json.loads`. Raises `Unprocessable` for a name that is given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Unprocessable(f"{name[:80]}: given twice")
        found[name] = value
    return found
