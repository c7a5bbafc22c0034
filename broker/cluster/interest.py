"""What this node wants to hear of, for the others to know: the filters of its clean sessions, whose they are, and inboxes
that are watched.

It is told with the first that want something, durably before they are answered, and taken back with the last. A group tells
what is wanted before what is no longer wanted, in whatever order it came about. So what is taken back and wanted again in one
group is not told at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from storage.cluster import HELD, LISTEN, UNLISTEN, Change
from storage.records import Announce, DeviceKey, Operation

T = TypeVar("T", str, DeviceKey)


class Interest:
    """One node's; ``me`` is its token. Called in the order of groups, as they are built."""

    def __init__(self, me: int) -> None:
        self._me = me
        self._filters: dict[str, int] = {}
        """By how many want them."""
        self._watched: dict[str, int] = {}
        self._held: dict[DeviceKey, int] = {}
        self._taken_back: dict[Change, Announce] = {}
        """What the group that is being built takes back."""

    def begin_group(self) -> None:
        """The groups before are built: what they take back they do."""
        self._taken_back.clear()

    def listen(self, filter_: str) -> list[Operation]:
        """One more clean session has a filter."""
        return self._more(self._filters, filter_, Change(LISTEN, filter=filter_, node=self._me), self._no_filter(filter_))

    def unlisten(self, filter_: str) -> list[Operation]:
        """One less."""
        return self._less(self._filters, filter_, self._no_filter(filter_))

    def watch(self, user: str) -> list[Operation]:
        """One more waits for news of an inbox."""
        return self._more(self._watched, user, Change(HELD, user, node=self._me), Change(HELD, user))

    def unwatch(self, user: str) -> list[Operation]:
        """One less."""
        return self._less(self._watched, user, Change(HELD, user))

    def hold(self, key: DeviceKey) -> list[Operation]:
        """This node has the connection of a clean session, of which storage keeps nothing else."""
        return self._more(self._held, key, Change(HELD, *key, node=self._me), Change(HELD, *key))

    def release(self, key: DeviceKey) -> list[Operation]:
        """It has ended."""
        return self._less(self._held, key, Change(HELD, *key)) if key in self._held else []

    def lost(self, key: DeviceKey) -> None:
        """Another node has said that it has it now."""
        self._held.pop(key, None)

    def filters(self, after: str, limit: int) -> list[str]:
        """Up to ``limit`` filters above one, in order."""
        return _page(self._filters, after, limit)

    def watched(self, after: str, limit: int) -> list[str]:
        """The same for the users whose inboxes are watched."""
        return _page(self._watched, after, limit)

    def _no_filter(self, filter_: str) -> Change:
        return Change(UNLISTEN, filter=filter_, node=self._me)

    def _more(self, counts: dict[T, int], name: T, wanted: Change, back: Change) -> list[Operation]:
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            return []
        taken_back = self._taken_back.pop(back, None)
        if taken_back is None:
            return [Announce([wanted])]
        taken_back.changes = ()
        return []

    def _less(self, counts: dict[T, int], name: T, back: Change) -> list[Operation]:
        counts[name] -= 1
        if counts[name]:
            return []
        del counts[name]
        operation = self._taken_back[back] = Announce([back])
        return [operation]


def _page(names: Iterable[str], after: str, limit: int) -> list[str]:
    return sorted(name for name in names if name > after)[:limit]
