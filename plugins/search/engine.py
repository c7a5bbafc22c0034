"""What an engine promises. `tests/search/` holds the suite of cases that every engine passes.

An engine's index is derived: it trails the store, and can be thrown away and made again from it. `Indexer` is the only one
who writes; anyone may search at any time. All methods are coroutines that never block the event loop.

SearchError
├── SearchUnavailable    the engine is away, busy, full or slow: try again later
│   └── ServerAway       so is its server, which the text names
├── SearchUnusable       its configuration or its data is wrong: a person must act
└── BadQuery             the caller's query is wrong; the text says what would be right
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from broker.packets import ProtocolViolation, matches, validate_filter
from plugins.follower import Positions as Positions

MAX_LIMIT = 100
MAX_TOTAL = 1000
"""Hits are counted up to here."""
MAX_QUERY = 1000

Sort = Literal["relevance", "newest", "oldest"]
SORTS: tuple[Sort, ...] = get_args(Sort)

EARLIER = -1
"""In place of a number, of an index of an earlier version: the one id that it kept for all writers."""


class SearchError(Exception):
    """The root of all search errors."""


class SearchUnavailable(SearchError):
    """The engine cannot answer now."""


class ServerAway(SearchUnavailable):
    """The server that searches for us cannot be used now. The text is for whoever runs the broker: it names the server."""


class SearchUnusable(SearchError):
    """The engine cannot work as it is configured, and trying again will not help."""


class BadQuery(SearchError):
    """The query cannot be answered as it was asked."""


class Document(NamedTuple):
    """A message as it is searched. ``id`` is the message id, ``sender`` a user key, ``time`` in ms, ``text`` not empty."""

    id: int
    topic: str
    seq: int
    sender: str
    device: str
    time: int
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """What to search, and what the caller may see.

    ``q`` empty matches everything that the filters leave. ``conversations`` are exact topics, ``topic_filter`` an MQTT
    filter, ``sender`` a user key; ``since`` <= time < ``until`` in ms (0: no bound). ``newest`` and ``oldest`` go by time,
    ``relevance`` by match and, among equals, by time. ``cursor`` is the ``next`` of the page before, asked with the same query.

    ``allowed`` is the caller's permission: topics, or None for no restriction. It restricts everything alike: hits, order,
    totals and pages are those of an index that holds nothing else.
    """

    q: str = ""
    conversations: Collection[str] | None = None
    topic_filter: str = ""
    sender: str = ""
    since: int = 0
    until: int = 0
    sort: Sort = "relevance"
    limit: int = 20
    cursor: str = ""
    allowed: AbstractSet[str] | None = None

    def check(self) -> None:
        """Raise `BadQuery` unless every field has a value that can be answered."""
        if len(self.q) > MAX_QUERY:
            raise BadQuery(f"q has {len(self.q)} characters: at most {MAX_QUERY}")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise BadQuery(f"limit {self.limit}: must be 1 to {MAX_LIMIT}")
        if self.sort not in SORTS:
            raise BadQuery(f"sort {self.sort!r}: must be relevance, newest or oldest")
        if not 0 <= self.since < 1 << 48 or not 0 <= self.until < 1 << 48:
            raise BadQuery(f"time {self.since} to {self.until}: must be milliseconds since 1970")
        if self.topic_filter:
            try:
                validate_filter(self.topic_filter)
            except ProtocolViolation as error:
                raise BadQuery(str(error)) from error

    @property
    def restricted(self) -> bool:
        """Whether the query leaves out any conversation."""
        return self.conversations is not None or bool(self.topic_filter) or self.allowed is not None

    def named_topics(self) -> set[str] | None:
        """The topics that the query is limited to, as far as they are listed; None where they aren't."""
        listed = [set(topics) for topics in (self.conversations, self.allowed) if topics is not None]
        return set.intersection(*listed) if listed else None

    def permits(self, topic: str) -> bool:
        """Whether messages of a topic may be in the answer."""
        if self.conversations is not None and topic not in self.conversations:
            return False
        if self.topic_filter and not matches(self.topic_filter, topic):
            return False
        return self.allowed is None or topic in self.allowed


class Hit(NamedTuple):
    """One found message."""

    id: int
    topic: str
    seq: int
    sender: str
    device: str
    time: int


@dataclass(frozen=True, slots=True)
class Results:
    """One page. ``total`` counts the hits of all pages, up to `MAX_TOTAL`; where there may be more, it is not ``exact``.

    ``next`` is empty on the last page.
    """

    hits: list[Hit]
    total: int
    next: str = ""
    exact: bool = True


class Writer(Protocol):
    """The writing half of an engine, and an index that is being rebuilt."""

    @property
    def ahead(self) -> int:
        """How many calls of `index` may be under way at once. They are carried out in their order, and end so; where one fails,
        those after it fail too, and nothing else may be called before all of them have ended."""

    async def positions(self) -> Positions:
        """How far each writer's messages are indexed; of a writer that is not named, none are. Maybe `EARLIER` alone."""

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages and set the positions, all of them. A message that is there already is not added twice.

        When it returns, the batch is searchable, and the positions are durable with the batch or after it, never before.
        Raises `SearchUnavailable`; the same call may then be made again.
        """

    async def delete(self, ids: Collection[int]) -> None:
        """Remove messages; ids that are not there are passed over."""

    async def forget(self, topic: str, before_seq: int) -> None:
        """Remove a conversation's messages with seq < ``before_seq``."""


class Rebuild(Writer, Protocol):
    """A new index beside the live one. It is gone after `swap`, `discard`, or a crash."""

    async def swap(self) -> None:
        """Become the live index, at once for every later search, and remove the old one."""

    async def discard(self) -> None:
        """Remove what was built; the live index stays. May be called twice."""


class Searcher(Protocol):
    """The reading half of an engine."""

    async def open(self) -> None:
        """Make or open the index. Raises `SearchUnusable` with what to do, or `SearchUnavailable`; may be called again then."""

    async def close(self) -> None:
        """Finish the write under way and let go of everything. May be called twice."""

    async def search(self, query: Query) -> Results:
        """Answer a query. Raises `BadQuery` or `SearchUnavailable`."""

    async def unasked(self, query: Query, denied: AbstractSet[str], limit: int) -> list[str]:
        """Up to ``limit`` topics of matches that are neither ``denied`` nor in ``query.allowed``: to be asked about.

        They come in the order of the query (relevance: newest first), up to where ``query.allowed`` has as many matches as are
        counted, and as the page has. With none left, the answer to ``query`` is that of an index without what is denied. Raises
        as `search`.
        """

    async def topics(self, after: str = "", limit: int = 1000) -> list[str]:
        """Conversations of the index with a name > ``after``, by name."""

    async def held(self, topic: str, first_seq: int, last_seq: int, limit: int = 1000) -> list[int]:
        """Ids of up to ``limit`` indexed messages of a conversation with ``first_seq`` <= seq <= ``last_seq``, in no order."""

    async def count(self) -> int:
        """How many messages are indexed."""


class Engine(Searcher, Writer, Protocol):
    """A search engine."""

    @property
    def stale(self) -> bool:
        """Whether the live index was made by another tokeniser than ours, and should be rebuilt."""

    @property
    def away(self) -> str:
        """Why what was asked of the engine has to wait, for the operator; empty while it answers."""

    async def purge(self) -> bool:
        """Overwrite what `delete` has removed and the engine's own files still hold: one step, which takes a moment; whether
        there is more to do. Goes on after a crash. Where the files are a server's, that is for the server."""

    async def rebuild(self) -> Rebuild:
        """Begin an empty index beside the live one; one that was begun earlier is discarded."""


# --- cursors ---------------------------------------------------------------------------------------------------------


def _fingerprint(query: Query) -> str:
    """What of a query a cursor belongs to. Permission is not part of it: that is asked anew for every page."""
    conversations = None if query.conversations is None else sorted(query.conversations)
    asked = [query.q, conversations, query.topic_filter, query.sender, query.since, query.until, query.sort, query.limit]
    return hashlib.blake2b(json.dumps(asked).encode(), digest_size=6).hexdigest()


def encode_cursor(query: Query, *state: int) -> str:
    """An opaque text for `Results.next`."""
    return base64.urlsafe_b64encode(json.dumps([_fingerprint(query), *state]).encode()).decode().rstrip("=")


def decode_cursor(query: Query, size: int) -> list[int] | None:
    """The ``size`` numbers that `encode_cursor` was given; None without a cursor. Raises `BadQuery` for any other text."""
    if not query.cursor:
        return None
    try:
        value: Any = json.loads(base64.urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise BadQuery(f"cursor {query.cursor[:40]!r} is not one of ours") from error
    if not isinstance(value, list) or len(value) != size + 1 or not all(type(n) is int and 0 <= n < 1 << 62 for n in value[1:]):
        raise BadQuery(f"cursor {query.cursor[:40]!r} is not one of ours")
    if value[0] != _fingerprint(query):
        raise BadQuery("the cursor belongs to another query: repeat q, filters, sort and limit as on the first page")
    return value[1:]
