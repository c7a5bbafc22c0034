"""The search plugin: an engine, the indexer that feeds it, and what the HTTP API and the jobs ask of both.

Over 300 lines: each thing that others ask of a search is a few lines here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar
from urllib.parse import urlsplit

from amqtt.broker import BrokerContext

from broker.amqtt import Services
from broker.hooks import Group, GroupPlugin
from plugins.persistence import PersistencePlugin
from plugins.search.engine import Engine, Query, Searcher, SearchError, SearchUnavailable, SearchUnusable
from plugins.search.indexer import Indexer, Source
from plugins.search.own_files import own_engine, own_searcher
from plugins.search.permission import search_permitted
from plugins.search.process import IndexerProcess
from plugins.search.reindex import Progress, watched
from plugins.search.service import Differences, FoundMessage, Lag, MayRead, Page, Rebuilding, Search
from plugins.search.terms import highlight, parse
from plugins.search.text import payload_text
from storage.cluster import number_of
from storage.errors import StorageError
from storage.interface import Storage
from storage.records import Append, Message

log = logging.getLogger("tideline.search")

BATCH = 5000
_GATHER, _GATHER_LONGER = 0.05, 0.25
"""tantivy takes 10 ms of the processor for each page, however small."""
SERVER_BATCH, SERVER_BYTES = 10_000, 8 << 20
"""A server takes a time for each task, however small, so that one has all that waits, within these bounds."""

_LEASE = "work"
"""Of the nodes of a cluster the one that runs the jobs keeps an index on a server; an embedded one is each machine's own."""
_AGAIN = 30.0
"""Seconds after which an index that could not be opened is tried again."""
KEY_VARIABLE = "TIDELINE_MEILISEARCH_KEY"
S = TypeVar("S", bound=Searcher)
_ID: Callable[[Append], int] = attrgetter("message.id")


class SearchPlugin(GroupPlugin, Search):
    """Makes everything that is stored searchable.

    Whoever starts the broker calls `attach` once the storage is open, and the plugin's `close` before the storage is
    closed. Until then, and without a storage, every search raises `SearchUnavailable`.
    """

    @dataclass
    class Config:
        """What config.yaml may set; a bad value is refused at start."""

        engine: str = "embedded"
        """``embedded`` (SQLite, nothing to install), ``tantivy`` (an extra) or ``meilisearch`` (version 1.12 or later)."""
        path: str = "data/search.db"
        """The embedded engine's file; tantivy's folder is beside it: ``search.tantivy``. It is derived: removing it
        costs the time to make it again."""
        url: str = "http://127.0.0.1:7700"
        """Meilisearch's address, without credentials."""
        key: str = field(default="", repr=False)
        """Meilisearch's API key. Better given as TIDELINE_MEILISEARCH_KEY in the environment. Never logged."""
        index: str = "tideline"
        """Meilisearch's index; while rebuilding, ``<index>_next`` is used too."""
        timeout: int = 10
        """Seconds that one request to Meilisearch may take."""
        batch: int = 0
        """Messages of one index transaction at most, 1 to 10000; 0 is 5000, and 10000 with Meilisearch."""
        gather: float | None = None
        """Seconds that the indexer waits for more messages before it writes: 0.05, and 0.25 with tantivy."""
        share: float = 0.0
        """The part of the time, 0.01 to 1, that the indexer may work while there is a backlog; 0 is all of it in a process of
        its own and with Meilisearch, and half of it in the broker's process."""
        poll: float = 2.0
        """Seconds after which the indexer looks at the store without being woken."""

        def __post_init__(self) -> None:
            if self.engine not in ("embedded", "tantivy", "meilisearch"):
                raise ValueError(f"engine {self.engine!r}: must be embedded, tantivy or meilisearch")
            if self.gather is None:
                self.gather = _GATHER_LONGER if self.engine == "tantivy" else _GATHER
            if not 0 <= self.batch <= 10_000:
                raise ValueError(f"batch {self.batch}: must be 1 to 10000, or 0")
            if self.share and not 0.01 <= self.share <= 1:
                raise ValueError(f"share {self.share}: must be 0.01 to 1, or 0")
            for name, least in (("timeout", 1), ("gather", 0), ("poll", 0.001)):
                if getattr(self, name) < least:
                    raise ValueError(f"{name} {getattr(self, name):g} must be {least:g} seconds or more")
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("url must be http://host:port or https://…")
            if "@" in parts.netloc:
                raise ValueError("url must not hold a user or password: use key")

    config: Config

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        self._storage: Storage | None = None
        self._searcher: Searcher | None = None
        self._indexer: Indexer | IndexerProcess | None = None
        self._clock: Callable[[], int] = _now
        self._may: Callable[[], Awaitable[bool]] | None = None
        self._rebuild: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._told = ""

    async def attach(self, storage: Storage, url: str = "") -> None:
        """Open the engine and begin to index ``storage``, which must be open.

        ``url`` is where another process can read it too: the embedded engine then indexes in one of its own. Without, it
        works in this one, and so does Meilisearch's adapter, which mostly waits for the server.

        Raises `SearchUnusable` when the embedded engine cannot be used. A Meilisearch server that is away, or refuses, is tried
        again for as long as it takes.
        """
        config = self.config
        indexer: Indexer | IndexerProcess
        searcher: Searcher
        if config.engine != "meilisearch" and url:
            searcher = await _opened(own_searcher(config.engine, config.path))
            measures = {"batch": config.batch or BATCH, "share": config.share or 1.0, "poll": config.poll}
            settings = {"storage": url, "engine": config.engine, "path": config.path, **measures}
            indexer = IndexerProcess(settings, gather=config.gather or 0.0)
        else:
            searcher = engine = make_engine(config, storage)
            if config.engine != "meilisearch":
                await _opened(engine)
            indexer = make_indexer(storage, engine, config, may=self._may if config.engine == "meilisearch" else None)
        self._storage, self._searcher, self._indexer = storage, searcher, indexer
        indexer.start()

    async def _attached(self, storage: Storage, url: str) -> bool:
        try:
            await self.attach(storage, url)
        except SearchUnusable as error:
            if str(error) != self._told:
                self._told = str(error)
                log.error("there is no search, trying again: %s", error)
            return False
        return True

    async def _open(self, storage: Storage, url: str) -> None:
        """Until the index can be used: its disk may be full for now."""
        while not await self._attached(storage, url):
            await asyncio.sleep(_AGAIN)
        log.warning("there is search again")

    async def on_broker_post_start(self) -> None:
        """The storage is open: begin. An index that cannot be used keeps no message from being stored, and is tried again."""
        server: Services = self.context.server
        self._clock = server.now
        self._may = partial(server.may, _LEASE)
        persistence = server.plugin(PersistencePlugin)
        url = "" if persistence is None else str(persistence.config.url)
        url = "" if url.startswith("memory:") else url
        if not await self._attached(server.storage, url):
            self._opening = asyncio.create_task(self._open(server.storage, url), name="search opening")

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop indexing after the page under way and close the engine. May be called twice."""
        if (opening := self._opening) is not None:
            self._opening = None
            opening.cancel()
            await asyncio.wait([opening])
        indexer, searcher = self._indexer, self._searcher
        self._indexer = self._searcher = self._storage = None
        await self.cancel_reindex()
        if indexer is not None:
            await indexer.stop()
        if searcher is not None:
            await searcher.close()

    def after_ack(self, group: Group) -> None:
        """Wake the indexer; it reads the store's tail itself, so that a group that is missed here misses nothing."""
        if self._indexer is not None:
            self._indexer.notify(group.stored, self._through(group))

    def _through(self, group: Group) -> int:
        """The last id that this node gave to a message of the group; 0 for none. Groups commit one after the other.

        A message that another node has stored already keeps the id that it has from there.
        """
        cluster = None if self._storage is None else self._storage.cluster
        number = 0 if cluster is None else cluster.me.number
        highest = max(map(_ID, group.appends), default=0)
        if number_of(highest) == number:  # nearly always: each message of the broker waits for this
            return highest
        return max((id for append in group.appends if number_of(id := append.message.id) == number), default=0)

    # --- what the API and the jobs ask -------------------------------------------------------------------------------

    async def search(self, query: Query, may_read: MayRead | None = None) -> Page:
        """Answer a query with whole messages and highlights; with ``may_read`` within the topics that it allows.

        A message that has expired, or that the store has no longer, is never shown, even where the index still counts it.
        Raises `BadQuery` or `SearchUnavailable`, and `storage.errors.StorageError`.
        """
        if may_read is None:
            results = await self.searcher.search(query)
        else:
            results = await search_permitted(self.searcher, query, may_read)
        if self._storage is None:
            raise SearchUnavailable("the search index is not open")
        found = await asyncio.gather(*(self._storage.read_message(hit.id) for hit in results.hits))
        now = self._clock()
        messages = [message for message in found if message is not None and not (message.recalled or message.expired(now))]
        hits = await asyncio.to_thread(_highlighted, messages, query.q) if messages else []
        return Page(hits, results.total, results.next, results.exact)

    async def wait_indexed(self, message_id: int, timeout: float = 5.0) -> bool:
        """Wait until a stored message, and all before it, can be found; False after ``timeout`` seconds."""
        return await self.indexer.wait_indexed(message_id, timeout)

    async def wait_sequence(self, topic: str, seq: int, timeout: float = 5.0) -> bool:
        """As `wait_indexed`, for a conversation's message ``seq``; False too where it is not stored within the time."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self._storage is not None:
            found = await self._storage.read_conversation(topic, after=seq - 1, limit=1)
            left = deadline - asyncio.get_running_loop().time()
            if found:
                return await self.wait_indexed(found[0].id, left)
            first, last = await self._storage.conversation_bounds(topic)
            if seq < first <= last + 1 and seq <= last:
                return True  # removed since: nothing to find
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.02))
        return False

    def lag(self) -> Lag:
        """How far the index trails the store."""
        return self.indexer.lag()

    def failures(self) -> int:
        """How often the store or the index could not be reached, or failed."""
        return self.indexer.errors

    async def count(self) -> int:
        """How many messages are indexed."""
        return await self.searcher.count()

    def forget(self, topic: str, before_seq: int) -> None:
        """Messages of a conversation with seq < ``before_seq`` were removed from the store: forget them soon."""
        self.indexer.forget(topic, before_seq)

    def reconcile(self) -> None:
        """Compare the index with what the store still has, soon; done at every start too."""
        self.indexer.reconcile()

    async def compare(self, report: Callable[[Differences], None] = lambda found: None) -> Differences:
        """Compare every message of the store with the index and repair what differs. May be cancelled."""
        return await self.indexer.compare(report)

    async def reindex(self, report: Callable[[Progress], None] = lambda progress: None) -> int:
        """Build the index again beside the live one and swap them; how many messages were read. May be cancelled."""
        return await self.indexer.reindex(report)

    def begin_reindex(self) -> Rebuilding:
        """Begin to build the index again, in the background; the one that runs already, if one does."""
        if self.rebuilding is None or self.rebuilding.ended:
            indexer = self.indexer
            self.rebuilding = Rebuilding(started=_now())
            self._rebuild = asyncio.get_running_loop().create_task(self._reindex(indexer, self.rebuilding), name="reindex")
        return self.rebuilding

    async def cancel_reindex(self) -> bool:
        """Call off the rebuild under way, which leaves the index as it was; whether there was one."""
        task, self._rebuild = self._rebuild, None
        if task is None or task.done():
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    async def _reindex(self, indexer: Indexer | IndexerProcess, rebuilding: Rebuilding) -> None:
        def report(progress: Progress) -> None:
            rebuilding.messages, rebuilding.fraction = progress.messages, progress.fraction
            rebuilding.waiting = progress.waiting

        try:
            rebuilding.messages = await indexer.reindex(report)
            rebuilding.state, rebuilding.fraction = "done", 1.0
        except asyncio.CancelledError:
            rebuilding.state = "cancelled"
            raise
        except (SearchError, StorageError) as error:
            rebuilding.state, rebuilding.error = "failed", str(error)
            log.error("rebuilding the search index failed: %s", error)
        finally:
            rebuilding.ended, rebuilding.waiting = _now(), ""

    @classmethod
    async def reindex_alone(
        cls, source: Source, options: Mapping[str, Any], report: Callable[[int, float, str], None] = lambda *progress: None
    ) -> int:
        """Build the index again while no broker runs: what `tideline reindex` calls then. How many messages were read.

        ``source`` is an open storage, ``options`` are the plugin's. Raises `SearchError` and `storage.errors.StorageError`.
        """
        config = cls.Config(**options)
        engine = make_engine(config, source)

        def tell(progress: Progress) -> None:
            report(progress.messages, progress.fraction, progress.waiting)

        async with watched(tell, lambda: engine.away):
            await engine.open()
        indexer = make_indexer(source, engine, replace(config, gather=0, share=1), opened=True, follow=False)
        indexer.start()
        try:
            return await indexer.reindex(tell)
        finally:
            await indexer.stop()
            await engine.close()

    @property
    def searcher(self) -> Searcher:
        """The searching half of the engine. Raises `SearchUnavailable` before `attach`."""
        if self._searcher is None:
            raise SearchUnavailable("search has no storage yet")
        return self._searcher

    @property
    def indexer(self) -> Indexer | IndexerProcess:
        """The indexer. Raises `SearchUnavailable` before `attach`."""
        if self._indexer is None:
            raise SearchUnavailable("search has no storage yet")
        return self._indexer


async def _opened(searcher: S) -> S:
    try:
        await searcher.open()
    except SearchUnusable:  # another is made when it is tried again
        await searcher.close()
        raise
    return searcher


def make_engine(config: SearchPlugin.Config, source: Source) -> Engine:
    """The engine that a configuration names, not opened yet."""
    if config.engine == "meilisearch":
        from plugins.search.meili import MeiliEngine

        key = config.key or os.environ.get(KEY_VARIABLE, "")
        return MeiliEngine(config.url, key, name=config.index, timeout=config.timeout)
    return own_engine(config.engine, config.path, source)


def make_indexer(source: Source, engine: Engine, config: SearchPlugin.Config, **more: Any) -> Indexer:
    """An indexer with a configuration's measures, not started yet. ``more``: as an `Indexer` takes it."""
    if config.engine == "meilisearch":
        measures: dict[str, Any] = {"batch": SERVER_BATCH, "page_bytes": SERVER_BYTES, "share": 1.0, "yields": False}
    else:
        measures = {"batch": BATCH, "share": 0.5}
    chosen = {name: value for name, value in (("batch", config.batch), ("share", config.share)) if value}
    measures |= {"gather": config.gather or 0.0, "poll": config.poll, "opened": config.engine != "meilisearch"}
    return Indexer(source, engine, **measures | chosen | more)


def _highlighted(messages: list[Message], q: str) -> list[FoundMessage]:
    terms = parse(q)
    return [FoundMessage(message, highlight(payload_text(message.payload), terms)) for message in messages]


def _now() -> int:
    return time.time_ns() // 1_000_000
