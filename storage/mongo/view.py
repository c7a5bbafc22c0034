"""What the database holds of everything that a group touches, and what a group writes to its state. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from storage.mongo.codec import Kept
from storage.mongo.documents import Raw
from storage.records import DeviceKey, Subscription

NO_FLOOR = {"floor": 0, "time": 0}
"""What a timeline is registered with."""


class Head(NamedTuple):
    """The last sequence of a conversation and the server time that it had reached."""

    seq: int
    time: int


class Finished(NamedTuple):
    """A message that an earlier commit stored: its sequence, its time, and its place in each recipient's inbox (0: pruned)."""

    seq: int
    time: int
    entries: Sequence[int]


@dataclass(slots=True)
class View:
    """Everything that a plan starts from."""

    version: int
    clock: int = 0
    """The highest message time that was seen: the time of an entry whose message is an older one."""
    topics: dict[str, Head] = field(default_factory=dict)
    inboxes: dict[str, int] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    """Last removed sequence of an inbox, where a device may start in it."""
    since: dict[tuple[str, int], int] = field(default_factory=dict)
    """(user, time): the lowest sequence of that time or later; absent where no such entry is stored."""
    devices: dict[DeviceKey, Kept | None] = field(default_factory=dict)
    subscriptions: dict[tuple[DeviceKey, str], Subscription] = field(default_factory=dict)
    positions: dict[tuple[str, str], int] = field(default_factory=dict)
    """(user, topic): how far the user has read; absent where nothing was marked."""
    once: dict[str, Raw] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    stored: dict[int, Head] = field(default_factory=dict)
    """By message id: what this very group has stored already."""
    entries: dict[tuple[int, int], int] = field(default_factory=dict)
    """(index in the group, number of the entry): the sequence that this very group has written already."""


class Write(NamedTuple):
    """One write of the state phase, guarded by the group's version.

    ``fields`` are what is set, or for ``remove`` and ``sweep`` what is matched.

    ``kind``: ``set`` inserts or updates; ``change`` updates; ``remove`` deletes; ``sweep`` deletes a device's subscriptions of
    earlier generations; ``register`` inserts where nothing is; ``raise`` only makes numbers larger.
    """

    collection: str
    kind: str
    id: str
    fields: Raw
