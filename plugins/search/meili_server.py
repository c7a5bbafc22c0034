"""Talking to a Meilisearch server through its client, off the event loop.

What the client makes necessary: it blocks, so it runs in threads; a client that two threads share mixes up its headers, so each
thread has one, and asks it for a fresh index object every time; it waits forever unless it is given a time limit. What the
server makes necessary: 202 only means "queued", so every task is followed to its end.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import meilisearch
import requests
from meilisearch.errors import MeilisearchApiError, MeilisearchError, MeilisearchTimeoutError
from meilisearch.models.task import Task, TaskInfo

from plugins.search.engine import SearchError, SearchUnavailable, SearchUnusable, ServerAway
from storage.ending import end

T = TypeVar("T")

log = logging.getLogger("tideline.search")

_FIRST_LOOK, _SELDOM_LOOK = 0.01, 0.5
_LATE = 0.2
"""How much later than it ended a task is seen to have, as a part of what it took."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 30.0
_SEARCHING, _WRITING = 4, 2
_WAITING = 64


class Refused(SearchError):
    """The server refused a request or a task for what it contains."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"meilisearch: {text} ({code})")
        self.code = code


class MeiliServer:
    """One Meilisearch server. ``timeout`` is the seconds that one request may take. The key is in no error and no log."""

    def __init__(self, url: str, key: str, timeout: int) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._timeout = timeout
        self._local = threading.local()
        self._searchers = ThreadPoolExecutor(_SEARCHING, "meilisearch-search")
        self._writers = ThreadPoolExecutor(_WRITING, "meilisearch-write")
        self._waiting = 0
        self._away_until = 0.0
        self.away = ""
        """Why the server does not answer; empty since it last did."""
        self._backoff = _FIRST_BACKOFF
        self._closed = False
        self._awaited: dict[int, asyncio.Future[Task]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Let requests under way end; tasks that are waited for are left to the server."""
        self._closed = True
        for ended in self._awaited.values():
            _fail(ended, _closed())
        await end([self._watching])
        await asyncio.to_thread(self._writers.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._searchers.shutdown, cancel_futures=True)

    async def search(self, ask: Callable[[meilisearch.Client], T]) -> T:
        """A read for a person who waits: refused at once while the server is known to be away, or too many wait."""
        if time.monotonic() < self._away_until:
            raise ServerAway(self.away)
        if self._waiting >= _WAITING:
            raise SearchUnavailable(f"{self._waiting} searches are under way: try again")
        self._waiting += 1
        future = self._submit(self._searchers, ask)
        future.add_done_callback(self._answered)
        return await future

    def _answered(self, _: object) -> None:
        self._waiting -= 1

    async def call(self, ask: Callable[[meilisearch.Client], T]) -> T:
        """One request. Raises `Refused` for its contents, `SearchUnusable` for the key, `SearchUnavailable` for the rest."""
        return await self._submit(self._writers, ask)

    async def run(self, ask: Callable[[meilisearch.Client], TaskInfo]) -> None:
        """A request that queues a task, and that task to its end."""
        info = await self.call(ask)
        await self.finish(info.task_uid)

    async def finish(self, uid: int) -> None:
        """Wait for a task, also over a time in which the server is away, until something is known about it.

        Raises `Refused` where its contents made it fail, and `SearchUnavailable` where it ended in any other way but success.
        """
        if self._closed:
            raise _closed()
        ended = self._awaited[uid] = asyncio.get_running_loop().create_future()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="meilisearch tasks")
        try:
            await asyncio.wait([ended, self._watching], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._watching.result()  # a bug ended it
            task = await ended
        finally:
            del self._awaited[uid]
        if task.status == "succeeded":
            return
        error = task.error or {}
        if error.get("type") == "invalid_request":
            raise Refused(str(error.get("code")), str(error.get("message")))
        raise SearchUnavailable(f"meilisearch task {uid} {task.status}: {error.get('message', 'no reason given')}")

    async def _watch(self) -> None:
        """Ask about all tasks that are waited for, at once, until none is; seldom while none of them ends."""
        moved = time.monotonic()
        while self._awaited:
            uids = sorted(self._awaited)
            wait = _FIRST_BACKOFF
            try:
                tasks = await self._look(uids)
            except SearchUnavailable as error:
                log.debug("tasks %s: %s", uids, error)  # the server is away: it still has them
            except SearchError as error:
                for ended in self._awaited.values():
                    _fail(ended, error)
            else:
                if self._tell(uids, tasks):
                    moved = time.monotonic()
                wait = min(_SELDOM_LOOK, max(_FIRST_LOOK, (time.monotonic() - moved) * _LATE))
            await asyncio.sleep(wait)

    async def _look(self, uids: list[int]) -> dict[int, Task]:
        asked = {"uids": ",".join(map(str, uids)), "limit": len(uids)}
        answer = await self.call(lambda client: client.get_tasks(asked))
        return {task.uid: task for task in answer.results}

    def _tell(self, uids: list[int], tasks: Mapping[int, Task]) -> bool:
        """Pass on what has ended; whether anything has."""
        told = False
        for uid in uids:
            ended = self._awaited.get(uid)
            if ended is None or ended.done():
                continue
            if (task := tasks.get(uid)) is None:
                _fail(ended, SearchUnavailable(f"meilisearch lost task {uid}"))
            elif task.status not in ("enqueued", "processing"):
                ended.set_result(task)
            told = told or ended.done()
        return told

    def _submit(self, threads: ThreadPoolExecutor, ask: Callable[[meilisearch.Client], T]) -> asyncio.Future[T]:
        if self._closed:
            raise _closed()
        return asyncio.get_running_loop().run_in_executor(threads, self._ask, ask)

    def _ask(self, ask: Callable[[meilisearch.Client], T]) -> T:
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = meilisearch.Client(self._url, self._key or None, timeout=self._timeout)
        with self._errors():
            answer = ask(client)
            self._away_until, self._backoff, self.away = 0.0, _FIRST_BACKOFF, ""
            return answer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The client's errors, told as ours."""
        try:
            yield
        except MeilisearchApiError as error:
            raise self._translated(error) from None
        except (MeilisearchError, requests.RequestException) as error:
            raise self._gone(self._explained(error)) from None

    def _translated(self, error: MeilisearchApiError) -> SearchError:
        status: Any = error.status_code
        if status in (401, 403):
            return SearchUnusable(
                f"meilisearch at {self._url} refuses our key ({error.code}): it must allow indexes, documents, "
                "settings, search and tasks"
            )
        if status == 408 or status == 429 or status >= 500:
            return self._gone(f"Meilisearch at {self._url} answers {status}: look into its log")
        if error.code is None:
            return self._gone(
                f"what answers at {self._url} ({status}) is no Meilisearch server: correct `url` of the search plugin"
            )
        return Refused(str(error.code), error.message)

    def _explained(self, error: Exception) -> str:
        """What is wrong between the server and us, and what to do."""
        correct = "or correct `url` of the search plugin"
        cause = error.__cause__ or error
        if isinstance(cause, requests.exceptions.SSLError):
            return f"the certificate of Meilisearch at {self._url} cannot be verified, or it speaks no TLS: mend it, {correct}"
        if isinstance(error, MeilisearchTimeoutError) or isinstance(cause, requests.Timeout):
            return f"Meilisearch at {self._url} did not answer within {self._timeout} s: look into its log, {correct}"
        if isinstance(cause, requests.ConnectionError):
            return f"no Meilisearch server answers at {self._url}: start it, {correct}"
        return f"what answers at {self._url} is no Meilisearch server: {correct[3:]}"

    def _gone(self, why: str) -> ServerAway:
        """Leave the server alone for a moment, and say why for as long."""
        self._away_until = time.monotonic() + self._backoff
        self._backoff = min(_LONGEST_BACKOFF, self._backoff * 2)
        self.away = why
        return ServerAway(why)


def _closed() -> SearchUnavailable:
    return SearchUnavailable("the connection to meilisearch is closed")


def _fail(ended: asyncio.Future[Task], error: Exception) -> None:
    if not ended.done():
        ended.set_exception(error)
