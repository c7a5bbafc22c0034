"""What the database holds of everything that a group touches, and what a group writes to its state. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from storage.mongo.codec import Kept
from storage.mongo.documents import Raw
from storage.records import DeviceKey, RowKey, Subscription

if TYPE_CHECKING:
    from storage.mongo.rows import StoredRow

NO_FLOOR = {"floor": 0, "time": 0}
"""What a timeline is registered with."""


class Head(NamedTuple):
    """The last sequence of a conversation and the server time that it had reached."""

    seq: int
    time: int


@dataclass(slots=True)
class View:
    """Everything that a plan starts from."""

    version: int
    node: int = 0
    """The token of the node whose group it is."""
    now: int = 0
    """The database's clock, ms."""
    clock: int = 0
    """The highest message time that was seen: the time of an entry whose message is an older one."""
    topics: dict[str, Head] = field(default_factory=dict)
    inboxes: dict[str, int] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    """Last removed sequence of an inbox, where a device may start in it."""
    since: dict[tuple[str, int], int] = field(default_factory=dict)
    """(user, time): the lowest sequence of that time or later; absent where no such entry is stored."""
    devices: dict[DeviceKey, Kept | None] = field(default_factory=dict)
    drafted: dict[DeviceKey, Kept | None] = field(default_factory=dict)
    """The devices as the group will leave them, where it does anything to them."""
    ended: dict[DeviceKey, tuple[int, int]] = field(default_factory=dict)
    """Devices that are gone: the revision and the epoch that they ended with."""
    subscriptions: dict[DeviceKey, dict[str, Subscription]] = field(default_factory=dict)
    """By filter: those that the group touches, and all of a device that it ends or opens anew."""
    positions: dict[tuple[str, str], int] = field(default_factory=dict)
    """(user, topic): how far the user has read; absent where nothing was marked."""
    rows: dict[RowKey, StoredRow] = field(default_factory=dict)
    """Those that the group touches. One that is written stays as it was before."""
    rows_written: set[RowKey] = field(default_factory=set)
    once: dict[str, Raw] = field(default_factory=dict)
    stored: dict[int, Head] = field(default_factory=dict)
    """By message id: those of the group's messages that are stored already, by this group or by another writer."""
    entries: dict[tuple[int, int], int] = field(default_factory=dict)
    """(index in the group, number of the entry): the sequence of one that is written already; 0: retention has removed it."""


class Write(NamedTuple):
    """One write of the state phase; `storage.mongo.writes` has the guards.

    ``fields`` are what is set, or for ``remove`` and ``sweep`` what is matched. ``revision`` is of devices and subscriptions:
    the one that the write makes.

    ``kind``: ``set`` inserts or updates; ``change`` updates; ``remove`` deletes; ``sweep`` deletes many; ``register`` inserts
    where nothing is; ``raise`` only makes numbers larger.
    """

    collection: str
    kind: str
    id: str
    fields: Raw
    revision: int = 0
    seen: int = -1
    """The revision of the device before it; -1: there is none."""
