"""The engines whose index is in files of this machine, by name. A package that one needs is imported where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plugins.search.engine import Engine, Searcher, SearchUnusable
from plugins.search.fts5 import Fts5Engine, Fts5Searcher

if TYPE_CHECKING:
    from plugins.search.tantivy_engine import Texts


def own_engine(engine: str, path: str, texts: Texts) -> Engine:
    """``embedded`` or ``tantivy``, not opened yet. Raises `SearchUnusable` where a package is missing."""
    if engine == "embedded":
        return Fts5Engine(path)
    try:
        from plugins.search.tantivy_engine import TantivyEngine
    except ImportError as error:
        raise _missing(error) from error
    return TantivyEngine(_folder(path), texts)


def own_searcher(engine: str, path: str) -> Searcher:
    """The searching half of it."""
    if engine == "embedded":
        return Fts5Searcher(path)
    try:
        from plugins.search.tantivy_engine import TantivySearcher
    except ImportError as error:
        raise _missing(error) from error
    return TantivySearcher(_folder(path))


def _folder(path: str) -> Path:
    """tantivy's, beside the embedded engine's file."""
    return Path(path).with_suffix(".tantivy")


def _missing(error: ImportError) -> SearchUnusable:
    return SearchUnusable(f"engine: tantivy needs a package that is not installed ({error}): pip install 'tideline[tantivy]'")
