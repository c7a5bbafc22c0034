"""The pipeline: what was submitted gathers into groups, and one group follows the other.

What happens to a group is told by `broker.publish_path`, from top to bottom. Here is the order of groups, which holds for
messages and for whatever must keep its place among them (`Step`).

Rules it keeps (docs/laws.md, 1, 4, 6):

- Groups commit one after the other, and a group keeps the order of submission; so does what follows the commit.
- While a group commits, the next one gathers. There is no timer: a group starts as soon as the last one is durable.
- A group is matched before the one ahead of it is acknowledged, never before that one is durable.
- What gathers is bounded in bytes: above the limit the sockets that submit are read no further. Nothing is dropped.
- A step whose outcome hangs on a message before it, which may still be refused, ends the group before it: it is applied in
  the next one, when the message is decided. So nothing that was looked at has to be undone.

Over 300 lines: the queue and the task that empties it share one state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final, Protocol, TypeVar

from mypy_extensions import mypyc_attr

from broker.begun import Begun
from broker.crowd import Crowd
from broker.hooks import Group
from broker.publication import Publication
from storage.ending import end
from storage.records import Operation

log = logging.getLogger(__name__)

T = TypeVar("T", bound="Publication | Step")

OVERHEAD: Final = 256
"""Bytes counted for a gathered message besides its payload."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Step:
    """Something other than a message that takes its place in the order of groups.

    `apply` is called once, when its group is built; what it returns is committed with the group, in this place. `done` is
    called after the commit, in order with the acks.
    """

    __slots__ = ()

    def weight(self) -> int:
        """Bytes that it is counted as while it waits; the same at all times."""
        return OVERHEAD

    def ready(self) -> bool:
        """Whether `apply` can be called. False where it hangs on a message of the group being built; never in an empty one."""
        return True

    def apply(self) -> Sequence[Operation]:
        """Do what must happen at this place in the order, and say what is to be stored for it."""
        return ()

    def done(self) -> None:
        """What was stored is durable."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Awaited(Step):
    """A step that somebody waits for: ``finished`` is done once it is durable, and all that was submitted before."""

    def __init__(self) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class Operations(Awaited):
    """Operations, or none, that take their place in the order of groups."""

    def __init__(self, operations: Sequence[Operation] = ()) -> None:
        super().__init__()
        self._operations = operations

    def apply(self) -> Sequence[Operation]:
        return self._operations


class Paused(Protocol):
    """A source of messages that can be told to wait."""

    def resume_submitting(self) -> None:
        """There is room again."""


class Batch:
    """A group under way, in order. ``taken`` is how many of the items that it was offered it has.

    Times are `time.perf_counter`'s: ``since`` when the oldest of them came, ``committing`` and ``committed`` around the commit.
    """

    __slots__ = ("committed", "committing", "group", "publications", "since", "steps", "taken")

    def __init__(self, group: Group, publications: list[Publication], steps: list[Step], taken: int, since: float) -> None:
        self.group = group
        self.publications = publications
        self.steps = steps
        self.taken = taken
        self.since = since
        self.committing = self.committed = since


class Path(Protocol):
    """The way of a group (`broker.publish_path`)."""

    async def store(self, pipeline: Pipeline) -> Batch | None:
        """`Pipeline.take` the next group and see to it that it is durable. None where this node may not write any more."""

    def finish(self, batch: Batch) -> None:
        """The group is durable: acknowledge it, and deliver."""


class Pipeline:
    """The queue, the group under way and the task that sees groups through. ``pending_bytes`` is the limit of what gathers.

    ``failed`` is called with the reason where the path raises, which is our bug: nothing is committed any more then.
    """

    def __init__(self, path: Path, *, pending_bytes: int, failed: Callable[[str], None]) -> None:
        self._path = path
        self._failed = failed
        self._limit = pending_bytes
        self._pending: list[Publication | Step] = []
        self._bytes = 0
        self._under_way = 0
        self._since = 0.0
        """When the oldest of what waits came; of a group that was not taken whole, a moment before that."""
        self._taken = 0.0
        self.since = 0.0
        """When the oldest of the group under way came."""
        self._paused: dict[Paused, None] = {}
        self.crowd = Crowd()
        self._wake: asyncio.Future[None] | None = None
        """Done by what is submitted while there is nothing to do."""
        self._resting = True
        """Nothing waits, and nothing is under way."""
        self._rests: asyncio.Event | None = None
        """Set by the next rest; None while nobody waits for one."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="pipeline")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("internal error between commits: nothing is stored or acknowledged any more", exc_info=error)
            self._failed("internal error, see the log")

    async def stop(self, grace: float) -> None:
        """Commit what was gathered, for up to ``grace`` seconds, then end. What is not committed was not acknowledged."""
        task = self._task
        if task is None:
            return
        if not task.done():  # else it has failed
            with suppress(TimeoutError):
                await asyncio.wait_for(self.rest(), grace)
        if not self._resting:
            log.warning(
                "stopped: %d operations are undecided, as storage was given them and did not answer, %d are not stored; "
                "none of them was acknowledged",
                self._under_way,
                len(self._pending),
            )
        await end([task])

    async def rest(self) -> None:
        """Wait until nothing waits, and nothing is under way."""
        while not self._resting:
            if self._rests is None:
                self._rests = asyncio.Event()
            await self._rests.wait()

    # --- gathering -------------------------------------------------------------------------------------------------

    def submit(self, item: Publication | Step) -> None:
        """Take the item into the next group."""
        if not self._pending:
            self._since = perf_counter()
            self._resting = False
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        self._pending.append(item)
        self._bytes += OVERHEAD + len(item.message.payload) if isinstance(item, Publication) else item.weight()

    async def passed(self) -> None:
        """Wait until all that was submitted before is durable. Who is cancelled leaves nothing behind."""
        here = Operations()
        self.submit(here)
        try:
            await here.finished
        except asyncio.CancelledError:
            self.withdraw(here)
            raise

    def withdraw(self, item: Publication | Step) -> bool:
        """Take an item back that no group has yet: True if it was still here, so that storage never heard of it."""
        return bool(self._withdraw([waiting for waiting in self._pending if waiting is item]))

    def withdraw_until(self, last: Publication | Step, wanted: Callable[[Publication], bool]) -> list[Publication]:
        """Take back the ``wanted`` messages that wait, up to ``last`` itself; none where a group has that already."""
        found: list[Publication] = []
        for waiting in self._pending:
            if isinstance(waiting, Publication) and wanted(waiting):
                found.append(waiting)
            if waiting is last:
                return self._withdraw(found)
        return []

    def _withdraw(self, items: list[T]) -> list[T]:
        if items:
            gone = set(map(id, items))
            self._pending = [waiting for waiting in self._pending if id(waiting) not in gone]
            self._bytes -= sum(map(_weight, items))
            if not self.full:
                self._resume()
        return items

    @property
    def last(self) -> Publication | Step | None:
        """The newest item that waits for the group after the one under way."""
        return self._pending[-1] if self._pending else None

    @property
    def full(self) -> bool:
        """More is gathered than the limit: whoever reads from a socket must `pause` it."""
        return self._bytes >= self._limit

    @property
    def pending(self) -> int:
        """How many operations wait for the group after the one under way."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """How many bytes they hold."""
        return self._bytes

    def pause(self, source: Paused) -> None:
        """Have the source told when there is room again."""
        self._paused[source] = None

    def forget(self, source: Paused) -> None:
        """The source is gone."""
        self._paused.pop(source, None)
        self.crowd.forget(source)

    def _resume(self) -> None:
        if self._paused:
            paused, self._paused = self._paused, {}
            for source in paused:
                source.resume_submitting()

    # --- groups ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        durable: Batch | None = None
        while True:
            if not self._pending and durable is None:
                self._resting = True
                if self._rests is not None:
                    self._rests.set()
                    self._rests = None
                self._wake = loop.create_future()
                await self._wake
            if durable is None:
                durable = await self._path.store(self)
            else:
                # The writer has the next group before this one is acknowledged and delivered: the disk never waits for the
                # sockets. Measured: a third more messages per second than finishing first.
                stored = Begun(self._path.store(self)) if self._pending else None
                self._path.finish(durable)
                durable = None if stored is None else await stored
            self._under_way = 0

    def take(self, count: int) -> list[Publication | Step]:
        """The first ``count`` that wait, to be made a group of; `leave` must follow, with those of them that it has not."""
        self.crowd.next_group()
        taken, self._taken = self._taken, perf_counter()
        self.since = self._since
        if count >= len(self._pending):
            items, self._pending, self._bytes = self._pending, [], 0
        else:
            self._since = max(self._since, taken)  # what is left came after the last group was taken
            items, self._pending = self._pending[:count], self._pending[count:]
            self._bytes -= sum(map(_weight, items))
        self._under_way = len(items)
        return items

    def through(self, item: Publication | Step | None) -> int:
        """How many wait up to ``item``, itself included; 0 where it does not wait any more."""
        for place, waiting in enumerate(self._pending):
            if waiting is item:
                return place + 1
        return 0

    def leave(self, items: list[Publication | Step]) -> None:
        """The group is made, and these come first in the next one. Sources go on where there is room again."""
        if items:
            self._under_way -= len(items)
            self._since = self.since
            self._pending = items + self._pending
            self._bytes += sum(map(_weight, items))
        if not self.full:
            self._resume()


def _weight(item: Publication | Step) -> int:
    return OVERHEAD + len(item.message.payload) if isinstance(item, Publication) else item.weight()
