"""A session: what the broker knows of a device between and during its connections. No I/O.

A durable session has an inbox (its user's timeline) and lives in storage as a `storage.records.Device`; a clean one is
forgotten when its connection ends and has no inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.sessions.cursor import Cursor
from broker.sessions.timeline import LIVE_ONLY
from broker.sessions.window import Window
from storage.records import Device, DeviceKey, Inflight, InflightState, Progress, Subscription

if TYPE_CHECKING:
    from broker.sessions.link import Link

NOT_YET = 1 << 62
"""The ``since`` of a subscription whose place in the inbox is not known before its commit: nothing is due to it."""


class Session:
    """One device's state. ``epoch`` rises with each connection; whoever holds an older one changes nothing any more."""

    __slots__ = (
        "_position",
        "awaits_filter",
        "connection",
        "ended",
        "epoch",
        "expires_at",
        "expiry",
        "inbox",
        "key",
        "reader",
        "received",
        "saving",
        "shares",
        "subscriptions",
        "will",
        "will_at",
        "window",
    )

    def __init__(self, key: DeviceKey, *, durable: bool, window: int) -> None:
        self.key = key
        self.inbox = key.user if durable else ""
        self.epoch = 0
        self.expiry = 0
        self.expires_at = 0
        self.connection: Link | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.shares: set[str] = set()
        """Which of the filters are shared subscriptions."""
        self.window = Window(window)
        self.awaits_filter = False
        """A new device that starts before the head: its cursor stays until its first filter says what is due to it."""
        self.reader: Cursor | None = None
        """While it is connected: where it stands on its timeline."""
        self._position = 0
        self.received: dict[int, Link | None] = {}
        """Inbound QoS 2: packet id to who waits for its PUBREC; None once the message is stored."""
        self.will: bytes | None = None
        self.will_at = 0
        self.ended = False
        """It was removed, at a place in the order that is past: nothing of it is stored any more."""
        self.saving: object = None
        """The step that will store this session's progress, while it waits for its group."""

    @property
    def durable(self) -> bool:
        """The session outlives its connection."""
        return bool(self.inbox)

    @property
    def in_use(self) -> bool:
        """Storage does not have all that there is to the session, or somebody is at it."""
        if self.connection is not None or self.saving is not None or self.awaits_filter or self.ended:
            return True
        return any(subscription.since == NOT_YET for subscription in self.subscriptions.values())

    @property
    def cursor(self) -> int:
        """The highest entry of its timeline that was looked at."""
        return self._position if self.reader is None else self.reader.position

    @cursor.setter
    def cursor(self, position: int) -> None:
        self._position = position
        if self.reader is not None:
            self.reader.move(position)

    @property
    def offset(self) -> int:
        """The highest entry up to which all are done."""
        return self.window.offset(self.cursor)

    def attach(self, reader: Cursor) -> None:
        """A connection begins to read the session's timeline."""
        self.reader = reader

    def detach(self) -> None:
        """The connection ended: remember where it stood."""
        self._position = self.cursor
        self.reader = None

    def placed(self, filter_: str, since: int) -> None:
        """The place of a new filter is known. A SUBSCRIBE that replaced it meanwhile has the same place."""
        subscription = self.subscriptions.get(filter_)
        if subscription is not None and subscription.since == NOT_YET:
            subscription.since = since

    @classmethod
    def load(cls, device: Device, window: int) -> Session:
        """The session as storage had it."""
        session = cls(device.key, durable=True, window=window)
        session.epoch = device.epoch
        session.expiry = device.expiry
        session.expires_at = device.expires_at
        session.subscriptions = dict(device.subscriptions)
        session.window = Window.restore(window, device.inflight)
        session.cursor = device.cursor
        session.received = dict.fromkeys(device.received)
        session.will = device.will
        session.will_at = device.will_at
        return session

    def progress(self) -> Progress:
        """The offset, cursor and window as they are now, to be stored."""
        inflight = [entry for entry in self.window.snapshot() if not entry.timeline or self._keeps(entry)]
        cursor = self.cursor
        if self.reader is not None:
            self.reader.saved = cursor
        return Progress(self.key, self.epoch, self.window.offset(cursor), cursor, inflight)

    @staticmethod
    def _keeps(entry: Inflight) -> bool:
        """Of shared subscriptions only QoS 2 stays with the session; the group gives the rest to another member."""
        return entry.timeline != LIVE_ONLY and entry.state is not InflightState.PUBLISHED_1
