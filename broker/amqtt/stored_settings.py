"""What administrators keep in storage (users, rules, …), held in memory for those who watch it, and kept as it is there.

- All of it is read once, before the listeners open. A change that this node commits is known at once, in the order of commits.
- In a cluster storage is asked twice a second whether another node has begun or ended a change; where one has, all is read
  again. Where one began and never ended, its node may have died in it: it is looked again for a while.
- One node needs no such look: commands change what a running broker has by its API, and nobody else may write its database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from storage.ending import end
from storage.errors import FencedOut, StorageError
from storage.records import DropSetting, Operation, SaveSetting, Setting

if TYPE_CHECKING:
    from broker.clock import Timer, Wheel
    from storage.cluster import Cluster
    from storage.interface import Storage

log = logging.getLogger(__name__)

Watcher = Callable[[Mapping[str, bytes], Collection[str]], None]
"""Called with the settings of a kind, by key, and the keys that were added, changed or removed."""

_LOOK = 0.4
"""Seconds between two looks at what other nodes have changed."""
_UNSETTLED = 10.0
"""Seconds for which a change that began and did not end is read again and again."""


class StoredSettings:
    """The settings of one node. `watch` may be called at any time, `start` once storage is open."""

    def __init__(self, look: Callable[[Storage, Collection[str]], Awaitable[None]]) -> None:
        """``look``: is given the kinds that there are, at the start, before anybody is told."""
        self._look_first = look
        self._kinds: dict[str, dict[str, bytes]] = {}
        self._watchers: dict[str, list[Watcher]] = {}
        self._storage: Storage
        self._cluster: Cluster | None = None
        self._clock: Wheel
        self._started = False
        self._changes = 0
        """How often this node has changed something: what is read meanwhile is older."""
        self.mark = (0, 0)
        """See `storage.cluster.Cluster.settings_mark`; all that was done before it is known here."""
        self._unsettled_until = 0.0
        self._timer: Timer | None = None
        self._look: asyncio.Task[None] | None = None

    def watch(self, kind: str, callback: Watcher) -> Callable[[], None]:
        """See `broker.amqtt.api.Services.watch_settings`."""
        watchers = self._watchers.setdefault(kind, [])
        watchers.append(callback)
        if self._started:
            known = dict(self._kinds.get(kind, {}))
            callback(known, known.keys())
        return lambda: watchers.remove(callback) if callback in watchers else None

    @property
    def kinds(self) -> set[str]:
        """The kinds of which there is something."""
        return {kind for kind, known in self._kinds.items() if known}

    async def start(self, storage: Storage, clock: Wheel) -> None:
        """Read all, and tell who watches. Raises `StorageError`, and what a watcher, or the first look, raises."""
        self._storage, self._cluster, self._clock = storage, storage.cluster, clock
        if self._cluster is not None:
            self.mark = await self._cluster.settings_mark()
            self._unsettled_until = clock.now() + _UNSETTLED
        self._kinds = _by_kind(await storage.settings(""))
        await self._look_first(storage, self.kinds)
        self._started = True
        for kind, watchers in self._watchers.items():
            known = self._kinds.get(kind, {})
            for watcher in list(watchers):
                watcher(known, known.keys())
        self._look_later()

    async def stop(self) -> None:
        """Look no more."""
        self._cluster = None
        if self._timer is not None:
            self._timer.cancel()
        await end([self._look])

    def committed(self, operations: Iterable[Operation]) -> None:
        """This node has made them durable."""
        changed: dict[str, dict[str, None]] = {}
        for op in operations:
            if isinstance(op, SaveSetting | DropSetting) and op.error is None:
                known = self._kinds.setdefault(op.kind, {})
                if isinstance(op, SaveSetting):
                    known[op.key] = op.value
                else:
                    known.pop(op.key, None)
                changed.setdefault(op.kind, {})[op.key] = None
        self._changes += bool(changed)
        for kind, keys in changed.items():
            self._tell(kind, keys)

    # --- what other nodes change -------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        if self._cluster is not None:
            self._timer = self._clock.after(_LOOK, self._begin_look)

    def _begin_look(self) -> None:
        if self._cluster is not None:
            self._look = asyncio.create_task(self._look_at(self._cluster), name="stored settings")

    async def _look_at(self, cluster: Cluster) -> None:
        try:
            mark = await cluster.settings_mark()
            if mark[0] != self.mark[0]:
                self._unsettled_until = self._clock.now() + _UNSETTLED
            settled = mark[0] == mark[1] or self._clock.now() > self._unsettled_until
            if mark != self.mark or not settled:
                await self._read()
                self.mark = mark
        except FencedOut:
            return  # the beats say so
        except StorageError as error:
            log.debug("stored settings are not read now: %s", error)
        self._look_later()

    async def _read(self) -> None:
        changes = -1
        while changes != self._changes:
            changes = self._changes
            found = _by_kind(await self._storage.settings(""))
        before, self._kinds = self._kinds, found
        for kind in before.keys() | found.keys():
            old, new = before.get(kind, {}), found.setdefault(kind, {})
            keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
            if keys:
                self._tell(kind, keys)

    def _tell(self, kind: str, keys: Collection[str]) -> None:
        for watcher in list(self._watchers.get(kind, ())):
            try:
                watcher(self._kinds[kind], keys)
            except Exception:  # one that fails must not keep it from the others
                log.exception("a watcher of stored settings of kind %r failed", kind)


def _by_kind(settings: Iterable[Setting]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for kind, key, value in settings:
        found.setdefault(kind, {})[key] = value
    return found
