"""The hooks around a group's commit, called so that a plugin that fails costs as little as it may.

Kept true (docs/laws.md, 7): a hook that fails before the commit withholds the acks of the messages that it fails for, and of no
others. One that fails or hangs after the acks delays nothing. Both have a time limit. While storage is away nothing fails: what
a plugin needs of it is waited for, as the commit behind it would be.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter

from broker.counters import Counters
from broker.histogram import Histogram
from broker.hooks.group import Group
from broker.hooks.plugins import GroupPlugin, Refusal
from broker.packets import ReasonCode
from broker.plugin_call import answer_of, called
from broker.publication import Publication
from storage.errors import FencedOut, MessageRefused, StorageUnavailable
from storage.records import Append

log = logging.getLogger(__name__)

UntilDone = Callable[[Callable[[], Coroutine[object, object, None]]], Awaitable[bool]]
"""As `broker.commits.Commits.until_done`."""


class HookFailed(Refusal):
    """A plugin failed for this message before its ack."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ReasonCode.UNSPECIFIED_ERROR)


class GroupHooks:
    """The plugins that see groups, in the order in which they are called.

    ``timeout`` is in seconds, for each call. ``after_queue`` is how many groups may wait for a plugin's `after_ack`.
    """

    def __init__(self, plugins: Sequence[GroupPlugin], counters: Counters, *, timeout: float, after_queue: int) -> None:
        self._counters = counters
        self._timeout = timeout
        self._before = [
            _BeforeHook(p, counters.hook_seconds.setdefault(type(p).__name__, Histogram()))
            for p in plugins
            if type(p).before_ack is not GroupPlugin.before_ack
        ]
        self._after = [
            _AfterHook(p, after_queue, timeout, counters) for p in plugins if type(p).after_ack is not GroupPlugin.after_ack
        ]
        self.arrivals = [p for p in plugins if type(p).arrived is not GroupPlugin.arrived]
        """The plugins that see messages before these have recipients."""

    def arrived(self, publication: Publication) -> None:
        """Let the plugins see a message before it has recipients; one that fails refuses it."""
        for plugin in self.arrivals:
            try:
                plugin.arrived(publication)
            except Exception:
                log.exception("plugin %s failed for a message that arrived", type(plugin).__name__)
                self._counters.hook_errors += 1
                publication.error = HookFailed(f"plugin {type(plugin).__name__} failed before the ack")
            if publication.error is not None:
                return

    def before_ack(self, group: Group, until_done: UntilDone) -> Coroutine[object, object, bool] | None:
        """Let the plugins see the group. What they refused is not among its ``operations`` any more; or, where it may have been
        stored before, under its name, it is there to be taken as that repeat, or refused behind that (`Append.refusal`).

        A plugin for which storage is away is called again until it is back, as a commit is (`Commits.until_done`). None where
        all of them have answered at once, else what is to be awaited; False of that where this node may not write any more.
        """
        for place, hook in enumerate(self._before):
            had, began = len(group.operations), perf_counter()
            try:
                waits = called(hook.call, group)
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
                waits = _failed(error)
            if waits is not None:
                return self._answers(place, waits, had, began, group, until_done)
            hook.seconds.observe(perf_counter() - began)
        self._leave_out_refused(group)
        return None

    async def _answers(
        self, place: int, waits: Awaitable[None], had: int, began: float, group: Group, until_done: UntilDone
    ) -> bool:
        """The same from a plugin on that has to be waited for, which was called when the group ``had`` so many operations."""
        answer: Awaitable[None] | None = waits
        for hook in self._before[place:]:
            plugin = hook.plugin
            if answer is None:
                had, began = len(group.operations), perf_counter()
            well = await self._call_until_done(plugin, group, until_done, had, answer)
            answer = None
            if well is None:
                return False
            hook.seconds.observe(perf_counter() - began)
            if well:
                continue
            # Somebody in the group makes the plugin fail: find out who, so that the others are acknowledged.
            del group.operations[had:]  # what it added before it failed, it adds again
            for append in group.appends:
                if append.error is None and not await self._call_alone(plugin, append, group, until_done):
                    return False
        self._leave_out_refused(group)
        return True

    def _leave_out_refused(self, group: Group) -> None:
        refused = [a for a in group.appends if a.error is not None]
        if refused:
            ours = set(map(id, group.operations))
            gone = {id(append) for append in refused if id(append) not in ours or not _may_repeat(append)}
            group.operations[:] = [op for op in group.operations if id(op) not in gone]

    async def _call_alone(self, plugin: GroupPlugin, append: Append, group: Group, until_done: UntilDone) -> bool:
        """Call the plugin with one message of the group; what it adds then is the group's. False as in `before_ack`."""
        alone = Group([append], [append])
        well = await self._call_until_done(plugin, alone, until_done, 1)
        if well:
            group.operations += [operation for operation in alone.operations if operation is not append]
        elif well is not None:
            append.error = HookFailed(f"plugin {type(plugin).__name__} failed before the ack")
        return well is not None

    async def _call_until_done(
        self, plugin: GroupPlugin, group: Group, until_done: UntilDone, had: int, answer: Awaitable[None] | None = None
    ) -> bool | None:
        """Whether it went well; None where this node may not write any more. The ``answer`` to the first call may be there."""
        well = False

        async def call() -> None:
            nonlocal well, answer
            waits, answer = answer, None
            if waits is None:
                del group.operations[had:]  # what it added before storage went away, it adds again
            well = await self._call(plugin, group, waits)

        return well if await until_done(call) else None

    async def _call(self, plugin: GroupPlugin, group: Group, waits: Awaitable[None] | None) -> bool:
        try:
            if waits is None:
                waits = called(plugin.before_ack, group)
            if waits is not None:
                async with asyncio.timeout(self._timeout):
                    await answer_of(waits)
        except (StorageUnavailable, FencedOut):
            raise
        except TimeoutError:
            log.error("plugin %s took longer than %g s before the ack", type(plugin).__name__, self._timeout)
        except Exception:
            log.exception("plugin %s failed before the ack", type(plugin).__name__)
        else:
            return True
        self._counters.hook_errors += 1
        return False

    def after_ack(self, group: Group) -> None:
        """The group's acks are written: queue it for each plugin."""
        for hook in self._after:
            hook.offer(group)

    async def close(self) -> None:
        """Let each plugin finish the group that it has, and drop the rest."""
        for hook in self._after:
            await hook.close()


async def _failed(error: Exception) -> None:
    raise error


def _may_repeat(append: Append) -> bool:
    """Have storage say whether what a plugin refuses is a repeat, where it can be one: who had no answer is told then what came
    of the message, and not what would come of it now."""
    if not append.idempotency_key or not append.store or not isinstance(append.error, MessageRefused):
        return False
    append.refusal, append.error = append.error, None
    return True


class _BeforeHook:
    """One plugin's `before_ack`, and how long it takes."""

    __slots__ = ("call", "plugin", "seconds")

    def __init__(self, plugin: GroupPlugin, seconds: Histogram) -> None:
        self.plugin = plugin
        self.call = plugin.before_ack
        self.seconds = seconds


class _AfterHook:
    """One plugin's `after_ack`, fed by a bounded queue."""

    def __init__(self, plugin: GroupPlugin, limit: int, timeout: float, counters: Counters) -> None:
        self._plugin = plugin
        self._call = plugin.after_ack
        self._queue: deque[Group] = deque()
        self._limit = limit
        self._timeout = timeout
        self._counters = counters
        self._task: asyncio.Task[None] | None = None

    def offer(self, group: Group) -> None:
        """Queue the group, or skip it where the plugin is too far behind."""
        if not group.appends:
            return
        if self._task is None:
            waits = self._begun(group)
            if waits is not None:
                self._task = asyncio.create_task(self._drain(waits), name=f"after_ack {type(self._plugin).__name__}")
            return
        if len(self._queue) >= self._limit:
            self._counters.hook_skipped += 1
            return
        self._queue.append(group)

    def _begun(self, group: Group) -> Awaitable[None] | None:
        """Give it to the plugin; what is to be awaited, where that has not done with it at once."""
        try:
            return called(self._call, group)
        except Exception:  # noqa: BLE001 - logged
            self._failed()
            return None

    async def _drain(self, waits: Awaitable[None] | None) -> None:
        try:
            while True:
                if waits is not None:
                    try:
                        async with asyncio.timeout(self._timeout):
                            await answer_of(waits)
                    except Exception:  # noqa: BLE001 - logged
                        self._failed()
                if not self._queue:
                    return
                waits = self._begun(self._queue.popleft())
        finally:
            self._task = None

    def _failed(self) -> None:
        self._counters.hook_errors += 1
        log.exception("plugin %s failed after the ack", type(self._plugin).__name__)

    async def close(self) -> None:
        """Let the plugin finish the group that it has, and drop the rest."""
        self._queue.clear()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
