"""The pipeline: one group commit at a time, in the order in which things arrived.

    submit -> gather -> number and match -> hooks -> commit (durable) -> decided -> acknowledge -> deliver -> hooks

Rules it keeps (docs/laws.md, 1, 4, 6, 7):

- Nobody is acknowledged, and nobody is delivered to, before the group's commit returned.
- Groups commit one after the other, and a group keeps the order of submission; so does what follows the commit.
- While a group commits, the next one gathers. There is no timer: a group starts as soon as the last one is done.
- A group is numbered and matched before the one ahead of it is acknowledged, never before that one is durable.
- When storage is away the same group is tried again until it works. What gathers meanwhile is bounded in bytes:
  above the limit the sockets that submit are read no further. Nothing is dropped.
- A hook that fails before the commit withholds the acks of the messages that it fails for, and of no others.
- A step whose outcome hangs on a message before it, which may still be refused, ends the group before it: it is applied in
  the next one, when the message is decided. So nothing that was looked at has to be undone.

Over 300 lines: one loop, and the order of its steps is the point.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from mypy_extensions import mypyc_attr

from broker.counters import Counters
from broker.hooks import Group, GroupPlugin, Refusal
from broker.packets import ReasonCode
from broker.publication import Publication
from storage.errors import FencedOut, StorageUnavailable
from storage.interface import Committer
from storage.records import Append, Operation

log = logging.getLogger(__name__)

T = TypeVar("T", bound="Publication | Step")

OVERHEAD = 256
"""Bytes counted for a gathered message besides its payload."""

_BACKOFF = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


@mypyc_attr(allow_interpreted_subclasses=True)
class Step:
    """Something other than a message that takes its place in the order of groups.

    `apply` is called once, when its group is built; what it returns is committed with the group, in this place. `done` is
    called after the commit, in order with the acks.
    """

    __slots__ = ()

    def ready(self) -> bool:
        """Whether `apply` can be called. False where it hangs on a message of the group being built; never in an empty one."""
        return True

    def apply(self) -> Sequence[Operation]:
        """Do what must happen at this place in the order, and say what is to be stored for it."""
        return ()

    def done(self) -> None:
        """What was stored is durable."""


class Paused(Protocol):
    """A source of messages that can be told to wait."""

    def resume_submitting(self) -> None:
        """There is room again."""


class Router(Protocol):
    """What the broker does with messages around the commit."""

    def number(self, publication: Publication) -> None:
        """Number and match a message at its place in the order: its id, time and recipients."""

    def decided(self) -> None:
        """The group is durable, and which of its messages were refused is known; the next group is not built yet."""

    def committed(self, publications: list[Publication]) -> None:
        """The group is durable: acknowledge its publishers, then deliver. Those with an ``error`` were refused."""


class HookFailed(Refusal):
    """A plugin failed for this message before its ack."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ReasonCode.UNSPECIFIED_ERROR)


class _Built(NamedTuple):
    group: Group
    publications: list[Publication]
    steps: list[Step]


class Pipeline:
    """The queue, the group under way and the task that commits it."""

    def __init__(
        self,
        storage: Committer,
        router: Router,
        counters: Counters,
        *,
        pending_bytes: int,
        hook_timeout: float,
        after_queue: int,
        on_fenced: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._router = router
        self._counters = counters
        self._limit = pending_bytes
        self._hook_timeout = hook_timeout
        self._after_queue = after_queue
        self._on_fenced = on_fenced
        self._pending: list[Publication | Step] = []
        self._bytes = 0
        self._under_way = 0
        self._paused: dict[Paused, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._before: list[GroupPlugin] = []
        self._after: list[_AfterHook] = []
        self._closing = False
        self.unavailable_since: float | None = None
        """`time.monotonic()` of the first failure of the group under way; None while storage works."""
        self.trouble = ""
        """What storage said last, while it does not work."""

    def start(self, plugins: Sequence[GroupPlugin]) -> None:
        """Begin to commit. ``plugins`` are called in this order."""
        self._before = [p for p in plugins if type(p).before_ack is not GroupPlugin.before_ack]
        self._after = [
            _AfterHook(p, self._after_queue, self._hook_timeout, self._counters)
            for p in plugins
            if type(p).after_ack is not GroupPlugin.after_ack
        ]
        self._task = asyncio.create_task(self._run(), name="pipeline")

    async def stop(self, grace: float) -> None:
        """Commit what was gathered, for up to ``grace`` seconds, then end. What is not committed was not acknowledged."""
        self._closing = True
        if self._task is not None:
            try:
                await asyncio.wait_for(self._idle.wait(), grace)
            except TimeoutError:
                log.warning(
                    "stopped: %d operations are undecided, as storage was given them and did not answer, %d are not stored; "
                    "none of them was acknowledged",
                    self._under_way,
                    len(self._pending),
                )
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for hook in self._after:
            await hook.close()

    # --- gathering -------------------------------------------------------------------------------------------------

    def submit(self, item: Publication | Step) -> None:
        """Take the item into the next group."""
        self._pending.append(item)
        self._bytes += OVERHEAD + len(item.message.payload) if isinstance(item, Publication) else OVERHEAD
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()

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

    # --- committing ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            durable: _Built | None = None
            while self._pending or durable is not None:
                if not self._pending:
                    assert durable is not None
                    self._finish(durable)
                    durable = None
                    continue
                built = self._build()
                self._under_way = len(built.group.appends) + len(built.steps)
                commit = asyncio.create_task(self._commit(built.group), name="commit")
                if durable is not None:
                    # The writer has the next group before this one is acknowledged and delivered: the disk never waits
                    # for the sockets. Measured: a third more messages per second than finishing first.
                    await asyncio.sleep(0)
                    self._finish(durable)
                durable = built if await commit else None
                self._under_way = 0
                if durable is not None:
                    self._decided(durable)
            self._idle.set()

    async def _commit(self, group: Group) -> bool:
        if self._before and group.appends:
            await self._call_before(group)
        return await self._store(group.operations)

    def _resume(self) -> None:
        if self._paused:
            paused, self._paused = self._paused, {}
            for source in paused:
                source.resume_submitting()

    def _decided(self, built: _Built) -> None:
        try:
            self._router.decided()
        except Exception:
            log.exception("taking note of a committed group failed")

    def _finish(self, built: _Built) -> None:
        """The group is durable: let the steps go on, in the order of submission, then acknowledge and deliver."""
        self._counters.groups += 1
        self._counters.group_messages += len(built.publications)
        for step in built.steps:
            try:
                step.done()
            except Exception:  # one connection's fault must not stop everybody's pipeline
                log.exception("a step of a committed group failed")
        try:
            self._router.committed(built.publications)
        except Exception:
            log.exception("acknowledging and delivering a committed group failed")
        for hook in self._after:
            hook.offer(built.group)

    def _build(self) -> _Built:
        """The next group: everything that waits, up to a step that is not `Step.ready`."""
        items, self._pending, self._bytes = self._pending, [], 0
        operations: list[Operation] = []
        publications: list[Publication] = []
        steps: list[Step] = []
        number = self._router.number
        for place, item in enumerate(items):
            try:
                if isinstance(item, Publication):
                    publications.append(item)
                    if item.error is None:
                        number(item)
                        operations.append(item)
                else:
                    if not item.ready() and publications:
                        self._put_back(items[place:])
                        break
                    operations.extend(item.apply())
                    steps.append(item)
            except Exception:  # our bug: it must not stop everybody's pipeline
                log.exception("an item of a group failed")
                if isinstance(item, Publication):
                    item.error = Refusal("internal error", ReasonCode.UNSPECIFIED_ERROR)
        if not self.full:
            self._resume()
        return _Built(Group(operations, publications), publications, steps)

    def _put_back(self, items: list[Publication | Step]) -> None:
        self._pending = items
        self._bytes = sum(map(_weight, items))

    async def _store(self, operations: list[Operation]) -> bool:
        """Commit until it works. False if this node may not write any more."""
        durable = [op for op in operations if not (isinstance(op, Append) and _nothing_to_store(op))]
        if not durable:
            return True
        attempt = 0
        while True:
            try:
                await self._storage.commit(durable)
            except StorageUnavailable as error:
                self._counters.storage_errors += 1
                if self.unavailable_since is None:
                    self.unavailable_since = time.monotonic()
                if str(error) != self.trouble:
                    log.error("storage is unavailable, nothing is acknowledged until it is back: %s", error)
                    self.trouble = str(error)
            except FencedOut as error:
                log.critical("this node may not write any more: %s", error)
                self._on_fenced()
                return False
            except Exception:
                self._counters.storage_errors += 1
                if self.unavailable_since is None:
                    self.unavailable_since = time.monotonic()
                    self.trouble = "unexpected error, see the log"
                    log.exception("storage failed in an unexpected way, nothing is acknowledged until it works")
            else:
                if self.unavailable_since is not None:
                    log.warning("storage is back after %.1f s", time.monotonic() - self.unavailable_since)
                    self.unavailable_since, self.trouble = None, ""
                return True
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1

    # --- hooks -----------------------------------------------------------------------------------------------------

    async def _call_before(self, group: Group) -> None:
        for plugin in self._before:
            ours = len(group.operations)
            if await self._hook(plugin, group):
                continue
            # Somebody in the group makes the plugin fail: find out who, so that the others are acknowledged.
            del group.operations[ours:]  # what it added before it failed, it adds again
            for append in group.appends:
                if append.error is None:
                    await self._call_alone(plugin, append, group)
        refused = [a for a in group.appends if a.error is not None]
        if refused:
            gone = set(map(id, refused))
            group.operations[:] = [op for op in group.operations if id(op) not in gone]

    async def _call_alone(self, plugin: GroupPlugin, append: Append, group: Group) -> None:
        """Call the plugin with one message of the group; what it adds then is the group's."""
        alone = Group([append], [append])
        if await self._hook(plugin, alone):
            group.operations += [operation for operation in alone.operations if operation is not append]
        else:
            append.error = HookFailed(f"plugin {type(plugin).__name__} failed before the ack")

    async def _hook(self, plugin: GroupPlugin, group: Group) -> bool:
        try:
            async with asyncio.timeout(self._hook_timeout):
                await plugin.before_ack(group)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            log.error("plugin %s was cancelled from within before the ack", type(plugin).__name__)
        except TimeoutError:
            log.error("plugin %s took longer than %g s before the ack", type(plugin).__name__, self._hook_timeout)
        except Exception:
            log.exception("plugin %s failed before the ack", type(plugin).__name__)
        else:
            return True
        self._counters.hook_errors += 1
        return False


def _weight(item: Publication | Step) -> int:
    return OVERHEAD + len(item.message.payload) if isinstance(item, Publication) else OVERHEAD


def _nothing_to_store(append: Append) -> bool:
    return not (append.store or append.retain or append.recipients or append.received)


class _AfterHook:
    """One plugin's `after_ack`, fed by a bounded queue."""

    def __init__(self, plugin: GroupPlugin, limit: int, timeout: float, counters: Counters) -> None:
        self._plugin = plugin
        self._queue: deque[Group] = deque()
        self._limit = limit
        self._timeout = timeout
        self._counters = counters
        self._task: asyncio.Task[None] | None = None

    def offer(self, group: Group) -> None:
        """Queue the group, or skip it where the plugin is too far behind."""
        if not group.appends:
            return
        if len(self._queue) >= self._limit:
            self._counters.hook_skipped += 1
            return
        self._queue.append(group)
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name=f"after_ack {type(self._plugin).__name__}")

    async def _drain(self) -> None:
        try:
            while self._queue:
                group = self._queue.popleft()
                try:
                    async with asyncio.timeout(self._timeout):
                        await self._plugin.after_ack(group)
                except Exception:
                    self._counters.hook_errors += 1
                    log.exception("plugin %s failed after the ack", type(self._plugin).__name__)
        finally:
            self._task = None

    async def close(self) -> None:
        """Let the plugin finish the group that it has, and drop the rest."""
        self._queue.clear()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
