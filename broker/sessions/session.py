"""A session: what the broker knows of a device between and during its connections. No I/O.

A durable session has an inbox (its user's timeline) and lives in storage as a `storage.records.Device`; a clean one is
forgotten when its connection ends and has no inbox. It may be a member of channels, each of which is stored as a device too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker.sessions.channel import Member
from broker.sessions.cursor import Cursor
from broker.sessions.timeline import LIVE_ONLY, Timeline
from broker.sessions.window import Window
from storage.records import Device, DeviceKey, Inflight, InflightState, Operation, Progress, Subscription

if TYPE_CHECKING:
    from broker.sessions.link import Link

NOT_YET: Final = 1 << 62
"""The ``since`` of a subscription whose place in the inbox is not known before its commit: nothing is due to it."""


_NO_SHARED: Final[frozenset[str]] = frozenset()  # an empty set of each session's own takes 230 bytes
_NONE_RECEIVED: Final[dict[int, Link | None]] = {}  # and this 64, which most sessions never need; nobody writes to it


class Session:
    """One device's state. ``epoch`` rises with each connection; whoever holds an older one changes nothing any more."""

    __slots__ = (
        "_position",
        "awaits_filter",
        "channels",
        "connection",
        "elsewhere",
        "ended",
        "epoch",
        "expires_at",
        "expiry",
        "inbox",
        "key",
        "member_epoch",
        "reader",
        "received",
        "restored",
        "saving",
        "settling",
        "shared_filters",
        "subscriptions",
        "unopened",
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
        self.shared_filters = _NO_SHARED
        """Which of the filters are shared subscriptions."""
        self.channels: dict[Timeline, Member] | None = None
        """The channels that it reads beside its inbox; None for none, as most have."""
        self.member_epoch = 0
        """The highest epoch that a place in a channel has had."""
        self.window = Window(window)
        self.awaits_filter = False
        """A new device that starts before the head: its cursor stays until its first filter says what is due to it."""
        self.reader: Cursor | None = None
        """While it is connected: where it stands on its timeline."""
        self._position = 0
        self.received = _NONE_RECEIVED
        """Inbound QoS 2: packet id to who waits for its PUBREC; None once the message is stored. Written by `receive`."""
        self.will: bytes | None = None
        self.will_at = 0
        self.ended = False
        """It was removed, at a place in the order that is past: nothing of it is stored any more."""
        self.unopened = False
        """It began here, and storage has not said yet that there was none: nothing is stored of it but that it begins."""
        self.restored = False
        """Its client may be ahead of what is known of it here (`storage.records.Device.restored`), and was not told yet."""
        self.elsewhere = False
        """Another node had its connection when it was read."""
        self.saving: object = None
        """The step that will store this session's progress, while it waits for its group."""
        self.settling: list[Inflight] | None = None
        """In a cluster, QoS 2 of groups that is finished, by a packet id of 0, until that is durable for the group: a node that
        died gives nobody else what is in flight here."""

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

    def receive(self, packet_id: int, waiting: Link) -> None:
        """An inbound QoS 2 message came, and ``waiting`` is to be told once it is stored."""
        if self.received is _NONE_RECEIVED:
            self.received = {}
        self.received[packet_id] = waiting

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

    @property
    def members(self) -> Sequence[Member]:
        """Its places in channels."""
        return () if self.channels is None else list(self.channels.values())

    @classmethod
    def load(cls, device: Device, window: int, channels: Sequence[tuple[Timeline, Device]] = ()) -> Session:
        """The session as storage had it, with what it is a member of."""
        session = cls(device.key, durable=True, window=window)
        session.epoch = device.epoch
        session.restored = device.restored
        session.expiry = device.expiry
        session.expires_at = device.expires_at
        session.subscriptions = dict(device.subscriptions)
        settling = [entry for entry in device.inflight if not entry.packet_id]
        session.settling = settling or None
        inflight = {entry.packet_id: entry for entry in device.inflight if entry.packet_id}
        for channel, stored in channels:
            member = Member.load(channel, device.key, stored)
            if session.channels is None:
                session.channels = {}
            session.channels[channel] = member
            session.member_epoch = max(session.member_epoch, member.epoch)
            for entry in stored.inflight:
                # One identifier twice: where the two were not written as one, one of them is of a message that is done.
                if inflight.setdefault(entry.packet_id, entry) is not entry:
                    member.go_back(entry.seq)
        session.window = Window.restore(window, inflight.values())
        session.cursor = device.cursor
        if device.received:
            session.received = dict.fromkeys(device.received)
        session.will = device.will
        session.will_at = device.will_at
        return session

    @property
    def kept(self) -> bool:
        """Whether storage knows of it while its client is connected: a clean session has a place there for its will only."""
        return self.durable or self.will is not None

    def progress(self) -> Progress:
        """The offset, cursor and window as they are now, to be stored; of its channels only what it has left: see `saved`."""
        inflight = [entry for entry in self.window.snapshot() if not entry.timeline or self._keeps(entry)]
        if self.settling is not None:
            inflight += self.settling
        cursor = self.cursor
        if self.reader is not None:
            self.reader.saved = cursor
        return Progress(self.key, self.epoch, self.window.offset(cursor), cursor, inflight)

    def saved(self) -> list[Operation]:
        """All of its progress that storage may not have, to be stored."""
        operations: list[Operation] = [self.progress()]
        if self.channels is not None:
            operations += [own for member in self.channels.values() if (own := member.progress(self.window)) is not None]
        return operations

    def _keeps(self, entry: Inflight) -> bool:
        """Of shared subscriptions, and of channels that it has left, only QoS 2 stays with the session. A group gives the rest
        to another member. What is of a channel is stored with its place there."""
        if entry.timeline == LIVE_ONLY or entry.state is InflightState.PUBLISHED_1:
            return False
        return self.channels is None or entry.timeline not in self.channels
