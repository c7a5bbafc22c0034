"""Where an index on a server stands while several of its tasks are under way. No I/O.

A server carries out tasks in their order, but where one fails it goes on with the next. So a task that is sent before the one
before it has ended must not claim what that one was to do. Each task therefore writes documents of ours beside its messages:

- ``state``: up to which task everything is done, and the positions there. That is the task itself where none was under way as
  it was sent, else the last one that is known to be done.
- ``ahead<slot>``, where others were under way: its number and positions, which count once all tasks before it are done too.

`stand` reads them as a chain: from ``state`` on, task by task, up to the first one that is missing. Numbers belong to a run,
which ends with a failure and with the process, so nothing is joined to what was sent after it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugins.search.engine import EARLIER, Positions, SearchUnavailable

AHEAD = 32
"""Tasks under way at most."""

IDS = ("state", *(f"ahead{slot}" for slot in range(AHEAD)))
"""Ids of our documents."""


@dataclass(eq=False)
class Link:
    """One task: its number, the positions that it brings the index to, and how it has ended, once it has."""

    number: int
    positions: Positions
    before: Link | None
    succeeded: asyncio.Future[bool]


class Chain:
    """The tasks of one index that were sent and have not ended, in their order: `AHEAD` at most, which the caller sees to."""

    def __init__(self) -> None:
        self._begin_run()
        self._under_way: deque[Link] = deque()

    def _begin_run(self) -> None:
        self._run = uuid.uuid4().hex[:8]
        self._sent = self._told = 0
        """The last task; and the last that a ``state`` which was sent says to be done."""
        self._done: Link | None = None
        self._broken = False

    def begin(self, positions: Positions) -> Link:
        """A task is about to be sent. Raises `SearchUnavailable` while tasks end that were sent after one that has failed."""
        if self._broken:
            if self._under_way:
                raise _failed()
            self._begin_run()
        self._sent += 1
        before = self._under_way[-1] if self._under_way else None
        link = Link(self._sent, dict(positions), before, asyncio.get_running_loop().create_future())
        self._under_way.append(link)
        return link

    async def before(self, link: Link) -> None:
        """Wait for the end of the task before. Raises `SearchUnavailable` where it has failed."""
        if link.before is not None and not await asyncio.shield(link.before.succeeded):
            raise _failed()
        link.before = None

    def end(self, link: Link, succeeded: bool) -> None:
        """A task has ended. Only the first of those under way can have succeeded."""
        link.succeeded.set_result(succeeded)
        if succeeded:
            assert self._under_way[0] is link
            self._done = link
        self._broken = self._broken or not succeeded
        self._under_way.remove(link)

    def documents(self, link: Link) -> list[dict[str, Any]]:
        """What the task of ``link`` writes of where the index stands."""
        if self._under_way[0] is link:
            self._told = link.number
            return [self._document("state", link)]
        found = [self._document(f"ahead{link.number % AHEAD}", link)]
        if self._done is not None and self._done.number > self._told:
            self._told = self._done.number
            found.append(self._document("state", self._done))
        return found

    def _document(self, id: str, link: Link) -> dict[str, Any]:
        return {"id": id, "own": 1, "position": json.dumps(link.positions), "run": self._run, "task": link.number}


def _failed() -> SearchUnavailable:
    return SearchUnavailable("a batch before this one was not indexed")


def stand(documents: Iterable[Mapping[str, Any]]) -> Positions:
    """The positions that our documents tell of, which are text, since a server would round the numbers."""
    by_id = {document["id"]: document for document in documents}
    state = by_id.get("state")
    if state is None:
        return {}
    said = json.loads(state["position"])
    if not isinstance(said, dict):
        return {EARLIER: said} if said else {}
    if "run" in state:
        ahead = {d["task"]: d for id, d in by_id.items() if id != "state" and d["run"] == state["run"]}
        number = state["task"]
        while (following := ahead.get(number := number + 1)) is not None:
            said = json.loads(following["position"])
    return {int(number): id for number, id in said.items()}
