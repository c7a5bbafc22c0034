"""Search over everything that is stored: the plugin, and what a caller needs to ask it.

``text`` and ``terms`` say what matches; ``engine`` is what an engine promises, ``fts5*`` and ``meili*`` are the two there are;
``indexer`` feeds one from the store, where it can in a process of its own (``worker``, which ``process`` starts and watches);
``compare`` finds where the two differ; ``plugin`` puts them together.
"""

from plugins.search.compare import Differences
from plugins.search.engine import BadQuery, Query, SearchError, SearchUnavailable, SearchUnusable
from plugins.search.indexer import Lag, Progress
from plugins.search.plugin import FoundMessage, Page, Rebuilding, SearchPlugin

__all__ = [
    "BadQuery",
    "Differences",
    "FoundMessage",
    "Lag",
    "Page",
    "Progress",
    "Query",
    "Rebuilding",
    "SearchError",
    "SearchPlugin",
    "SearchUnavailable",
    "SearchUnusable",
]
