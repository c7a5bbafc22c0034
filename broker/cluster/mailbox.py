"""What this node tells others, and what they tell it: parcels out and in, and notes that are asked and answered.

- A group's parcels are durable before the group is acknowledged: who sends them tries again for as long as storage is away.
- Notes go out by themselves, in the order in which they were given, and are kept while storage is away: `MOST_NOTES` of them.
- Who hears no answer may have failed itself: to send, to receive, or to run at all. `ask_surely` tells that from silence.
- A handler of notes runs beside the others; with `MOST_HANDLED` at work no further parcel is received.
- A parcel's contents are taken in their order. What was sent again, as it was not known whether it had arrived, may come twice:
  inboxes and the log of arrivals pass over what they have had, and who asks takes one answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from storage.cluster import Cluster as Shared
from storage.cluster import Note, Parcel
from storage.ending import end
from storage.errors import FencedOut, StorageUnavailable

log = logging.getLogger(__name__)

Body = Mapping[str, Any]
"""Plain values: str, int, bytes, list, dict."""
Handler = Callable[[int, Body], Awaitable[Body | None]]
"""Called with the token of the node that asks, and what it says; answers with what it is told."""

MOST_NOTES = 10_000
MOST_HANDLED = 1000
_ANSWER = "answer"
_FAILED = "failed"
_RECEIVE = 5.0
"""Seconds that one call of storage waits for parcels."""
_BACKOFF = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class AskFailed(Exception):
    """The other node could not do what it was asked; the text says why."""


class Mailbox:
    """What one node sends and gets, over the lanes of `storage.cluster`.

    ``take`` is given each parcel that comes, before its notes are handled.
    """

    def __init__(self, shared: Shared, take: Callable[[Parcel], None], fenced: Callable[[str], None]) -> None:
        self._shared = shared
        self._take = take
        self._fenced = fenced
        self._handlers: dict[str, Handler] = {}
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Body]] = {}
        self._notes: list[tuple[int, Note, asyncio.Future[None] | None]] = []
        """To whom, what, and what is done once it is sent."""
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._handling: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send notes, and to receive."""
        self._tasks = [
            asyncio.create_task(self._send_notes(), name="notes to other nodes"),
            asyncio.create_task(self._receive(), name="parcels from other nodes"),
        ]

    async def stop(self) -> None:
        """End; who waits for an answer gets none."""
        await end([*self._tasks, *self._handling])
        for answer in self._asked.values():
            answer.cancel()

    # --- notes ---------------------------------------------------------------------------------------------------------

    def on(self, kind: str, handler: Handler) -> None:
        """Have notes of a kind handled. What the handler returns is the answer; what it raises is told as `AskFailed`."""
        self._handlers[kind] = handler

    def note(self, token: int, kind: str, body: Body) -> None:
        """Tell a node something, soon; it does not answer."""
        self._put(token, Note(kind, 0, body))

    async def ask(self, token: int, kind: str, body: Body, patience: float) -> Body:
        """Ask a node, and wait for its answer. Raises TimeoutError after ``patience`` seconds, and `AskFailed`."""
        with self._awaited() as (number, answer):
            self._put(token, Note(kind, number, body))
            async with asyncio.timeout(patience):
                await answer
        return _answer_of(answer)

    async def ask_surely(self, token: int, kind: str, body: Body, patience: float) -> Body:
        """The same, but that no failure of this node's own is taken for the other's silence: TimeoutError is raised
        ``patience`` seconds after the question was durable, and once this node has since heard what it told itself.

        While this node cannot send or receive it takes as long as that lasts.
        """
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._awaited() as (number, answer):
            self._put(token, Note(kind, number, body), sent)
            await asyncio.wait((answer, sent), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((answer,), timeout=patience)
            if not answer.done():
                await self._hear_itself(answer)
        if not answer.done():
            raise TimeoutError
        return _answer_of(answer)

    async def _hear_itself(self, answer: asyncio.Future[Body]) -> None:
        """Until this node has heard what was there for it, or the answer."""
        with self._awaited() as (number, echo):
            self._put(self._shared.me.token, Note(_ANSWER, number, {}))
            await asyncio.wait((answer, echo), return_when=asyncio.FIRST_COMPLETED)

    @contextmanager
    def _awaited(self) -> Iterator[tuple[int, asyncio.Future[Body]]]:
        """An answer, and the number that it will have."""
        number = next(self._ids)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            yield number, answer
        finally:
            del self._asked[number]

    def _put(self, token: int, note: Note, sent: asyncio.Future[None] | None = None) -> None:
        if len(self._notes) >= MOST_NOTES:
            raise StorageUnavailable(f"{MOST_NOTES} notes for other nodes wait for storage")
        self._notes.append((token, note, sent))
        self._news.set()

    async def _send_notes(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            parcels: dict[int, Parcel] = {}
            notes, self._notes = self._notes, []
            for token, note, _ in notes:
                parcels.setdefault(token, Parcel()).notes.append(note)
            await self._until_sent(parcels)
            for *_, sent in notes:
                if sent is not None:
                    sent.set_result(None)

    # --- out -------------------------------------------------------------------------------------------------------------

    async def send(self, parcels: Mapping[int, Parcel]) -> None:
        """Append to the lanes of nodes, by token, durably. Raises `StorageUnavailable`, and `FencedOut`."""
        async with self._sending:
            await self._shared.send(parcels)

    async def _until_sent(self, parcels: Mapping[int, Parcel]) -> None:
        attempt = 0
        while True:
            try:
                await self.send(parcels)
            except StorageUnavailable as error:
                log.log(logging.WARNING if attempt == 0 else logging.DEBUG, "notes for other nodes wait: %s", error)
            except FencedOut as error:
                self._fenced(str(error))
                return
            except Exception:  # our bug: it must not cost the notes that come after
                log.exception("notes for nodes %s are lost", ", ".join(map(str, parcels)))
                return
            else:
                return
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1

    # --- in --------------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        attempt = 0
        while True:
            await self._room.wait()
            try:
                parcels = await self._shared.receive(_RECEIVE)
            except StorageUnavailable as error:
                log.log(logging.WARNING if attempt == 0 else logging.DEBUG, "other nodes are not heard: %s", error)
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
                attempt += 1
                continue
            except FencedOut as error:
                self._fenced(str(error))
                return
            except Exception:  # our bug: a node that heard nobody any more would not even give its devices away
                log.exception("receiving of other nodes failed")
                await asyncio.sleep(_BACKOFF[-1])
                continue
            attempt = 0
            for parcel in parcels:
                try:
                    self._take(parcel)
                except Exception:  # our bug: it must not cost what comes after
                    log.exception("a parcel of node %d failed", parcel.sender)
                for note in parcel.notes:
                    self._hand_out(parcel.sender, note)

    def _hand_out(self, sender: int, note: Note) -> None:
        if note.kind == _ANSWER:
            answer = self._asked.get(note.id)
            if answer is not None and not answer.done():
                answer.set_result(note.body)
            return
        task = asyncio.create_task(self._handle(sender, note), name=f"note {note.kind} of node {sender}")
        self._handling.add(task)
        task.add_done_callback(self._handled)
        if len(self._handling) >= MOST_HANDLED:
            self._room.clear()

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        if len(self._handling) < MOST_HANDLED:
            self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def _handle(self, sender: int, note: Note) -> None:
        handler = self._handlers.get(note.kind)
        answer: Body | None
        try:
            if handler is None:
                raise LookupError(f"node {self._shared.me.token} does not know notes of kind {note.kind!r}")
            answer = await handler(sender, note.body)
        except Exception as error:
            if not note.id:
                raise
            log.exception("note %s of node %d failed", note.kind, sender)
            answer = {_FAILED: f"{type(error).__name__}: {error}"}
        if note.id:
            self._put(sender, Note(_ANSWER, note.id, answer or {}))


def _answer_of(answer: asyncio.Future[Body]) -> Body:
    body = answer.result()
    if _FAILED in body:
        raise AskFailed(body[_FAILED])
    return body
