"""Search over everything that is stored.

Kept true: the index trails the store, can be built again from it, and never holds up a commit. Nobody learns of a message that
they may not read.

``service`` is what the rest of the broker asks, whatever answers: others import nothing else. ``plugin`` answers. ``text`` and
``terms`` say what matches; ``engine`` is what an engine promises, ``fts5*``, ``tantivy*`` and ``meili*`` are those there are,
``file_engine`` what the first two have in common; ``permission`` searches for somebody who may not read everything; ``indexer``
feeds an engine from the store, where it can in a process of its own (``worker``, which ``process`` starts and watches);
``compare`` finds where the two differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugins.search.plugin import SearchPlugin

__all__ = ["SearchPlugin"]


def __getattr__(name: str) -> type[SearchPlugin]:
    """The plugin, once it is asked for: it imports half of the broker, of which ``worker`` in its own process needs nothing."""
    if name != "SearchPlugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from plugins.search.plugin import SearchPlugin

    return SearchPlugin
