"""What the HTTP API, the requests over MQTT, the jobs and the command line ask of a search, whatever engine answers.

A plugin that searches is a `Search`, and is found with ``server.plugin(Search)``. Ours is `plugins.search.SearchPlugin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from plugins.search.engine import SORTS, BadQuery, Query, SearchError, SearchUnavailable, SearchUnusable, ServerAway, Sort
from storage.interface import Storage
from storage.records import Message

__all__ = [
    "SORTS",
    "BadQuery",
    "Differences",
    "FoundMessage",
    "Lag",
    "MayRead",
    "Page",
    "Query",
    "Rebuilding",
    "Search",
    "SearchError",
    "SearchUnavailable",
    "Sort",
    "wording",
]

MayRead = Callable[[str], Awaitable[bool]]
"""Whether the one who asks may read a topic."""


def wording(error: SearchError, *, operator: bool = False) -> str:
    """What is said to somebody whose search failed. Where a server is, and what is wrong with it, is for the operator."""
    inside = isinstance(error, (ServerAway, SearchUnusable)) and not operator
    return "search cannot answer now" + ("" if inside else f": {error}")


class FoundMessage(NamedTuple):
    """A hit as the store has it, and its highlight: HTML, with the matches in ``<mark>``."""

    message: Message
    highlight: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an answer: see `plugins.search.engine.Results`."""

    hits: list[FoundMessage]
    total: int
    next: str = ""
    exact: bool = True


class Lag(NamedTuple):
    """How far the index trails the store.

    ``messages`` were committed and are not searchable yet; those of a backlog from before the start count as one until they are
    read. ``milliseconds`` is about the age of the oldest of them; 0 where there is none.
    """

    messages: int
    milliseconds: int
    position: int


@dataclass(slots=True)
class Rebuilding:
    """A rebuild that was begun by `Search.begin_reindex`. Times are ms; ``ended`` is 0 while it runs.

    ``waiting`` says what is away, and how that shows, while nothing can go on for it; for the operator.
    """

    state: Literal["running", "done", "failed", "cancelled"] = "running"
    messages: int = 0
    fraction: float = 0.0
    started: int = 0
    ended: int = 0
    error: str = ""
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Differences:
    """What was found so far: messages of the store that were looked at, how many of them the index lacked, and how many
    messages it had that the store has not, or has no longer. ``conversations`` were compared to their end."""

    conversations: int = 0
    messages: int = 0
    missing: int = 0
    surplus: int = 0


class Search:
    """Searches what is stored. Every method raises `SearchUnavailable` while the index is not open."""

    errors = SearchError
    """What `reindex_alone` raises, for callers who know the plugin by its name only."""

    rebuilding: Rebuilding | None = None
    """The rebuild under way, or how the last one ended."""

    async def search(self, query: Query, may_read: MayRead | None = None) -> Page:
        """Answer a query with whole messages and highlights; with ``may_read`` within the topics that it allows.

        A message that has expired, or that the store has no longer, is never shown, even where the index still counts it.
        Raises `BadQuery` or `SearchUnavailable`, and `storage.errors.StorageError`.
        """
        raise NotImplementedError

    async def wait_indexed(self, message_id: int, timeout: float = 5.0) -> bool:
        """Wait until a stored message, and all before it, can be found; False after ``timeout`` seconds."""
        raise NotImplementedError

    async def wait_sequence(self, topic: str, seq: int, timeout: float = 5.0) -> bool:
        """As `wait_indexed`, for a conversation's message ``seq``; False too where it is not stored within the time."""
        raise NotImplementedError

    def lag(self) -> Lag:
        """How far the index trails the store."""
        raise NotImplementedError

    def failures(self) -> int:
        """How often the store or the index could not be reached, or failed."""
        raise NotImplementedError

    async def count(self) -> int:
        """How many messages are indexed."""
        raise NotImplementedError

    def forget(self, topic: str, before_seq: int) -> None:
        """Messages of a conversation with seq < ``before_seq`` were removed from the store: forget them soon."""
        raise NotImplementedError

    async def compare(self, report: Callable[[Differences], None] = lambda found: None) -> Differences:
        """Compare every message of the store with the index and repair what differs. May be cancelled."""
        raise NotImplementedError

    def begin_reindex(self) -> Rebuilding:
        """Begin to build the index again, in the background; the one that runs already, if one does."""
        raise NotImplementedError

    async def cancel_reindex(self) -> bool:
        """Call off the rebuild under way, which leaves the index as it was; whether there was one."""
        raise NotImplementedError

    @classmethod
    async def reindex_alone(
        cls, source: Storage, options: Mapping[str, Any], report: Callable[[int, float, str], None] = lambda *progress: None
    ) -> int:
        """Build the index again while no broker runs: what `tideline reindex` calls then. How many messages were read.

        ``source`` is an open storage, ``options`` are the plugin's; ``report`` gets what `Rebuilding` has as ``messages``,
        ``fraction`` and ``waiting``. Raises `SearchError` and `storage.errors.StorageError`.
        """
        raise NotImplementedError
