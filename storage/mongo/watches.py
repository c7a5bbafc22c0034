"""Which messages of the store came late: a node sent them under its lease, and they landed when another one held it. No I/O.

A `Watch` stands for one change of holder: what has a version below ``base`` and an id over ``after`` was not there when the
new holder had finished what it found. A node's ids rise, so that what its last command still brings has higher ones. ``until``
bounds the search: an id that was given so long after the change that none of an earlier node's can be higher; 0 until there
is one.
"""

from __future__ import annotations

import asyncio
from dataclasses import astuple, dataclass
from typing import Any

from storage.mongo.documents import Raw

KEPT = 16
"""Changes of holder that are watched at most: those of the last day, where nodes are not started again and again."""


@dataclass(slots=True)
class Watch:
    base: int
    after: int
    until: int = 0


class Watches:
    """The watches of a holder, oldest first, kept with its lease.

    ``met``: a late message was seen since they were last looked for; ``wake`` is for who looks for them.
    """

    def __init__(self) -> None:
        self.all: list[Watch] = []
        self.met = False
        self.wake = asyncio.Event()
        self._mark: int | None = None

    def load(self, stored: list[list[int]]) -> None:
        """Those that the holders before have left."""
        self.all = [Watch(*fields) for fields in stored]

    def stored(self) -> list[tuple[Any, ...]]:
        """As `load` takes them."""
        return [astuple(watch) for watch in self.all]

    def add(self, base: int, after: int) -> None:
        """A new holder, whose versions begin at ``base``, follows one that has not said that it was done."""
        self.all = [*self.all[1 - KEPT :], Watch(base, after)]

    def clear(self) -> None:
        """Nothing is expected any more."""
        self.all = []

    def recovered(self, base: int, highest: int) -> None:
        """All with an id up to ``highest`` is finished."""
        for watch in self.all:
            if watch.base == base:
                watch.after = max(watch.after, highest)

    def is_late(self, document: Raw) -> bool:
        """Whether a message of the store came late and is not finished."""
        watch = self._watch(document["v"]) if self.all else None
        return watch is not None and document["mid"] > watch.after

    def meets(self, document: Raw) -> bool:
        """The same, of one that was come across: it is to be finished."""
        late = self.is_late(document)
        if late:
            self.met = True
            self.wake.set()
        return late

    def finished(self, document: Raw) -> None:
        """It has its inbox entries now."""
        watch = self._watch(document["v"])
        if watch is not None:
            watch.after = max(watch.after, document["mid"])

    def looked(self, last_id: int) -> None:
        """A look took place, a lease's time or more after the change; ``last_id`` is the highest id that is committed."""
        if self._mark is None:
            self._mark = last_id
        elif last_id > self._mark:
            for watch in self.all:
                watch.until = watch.until or last_id

    def _watch(self, version: int) -> Watch | None:
        return next((watch for watch in self.all if version < watch.base), None)
