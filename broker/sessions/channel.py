"""Channels: inboxes that all readers of a topic filter share, for large groups. No I/O.

A message whose topic has read fan-out makes one entry, in the channel of its topic, instead of one for each user it is due to.
Each session that may be due it is a *member* of the channel: a device of that inbox, with an offset of its own.

Rules kept here:

- A member is to storage a device as any other: `DeviceKey(channel, member's name)`. Its offset is what retention asks, and its
  subscriptions say from which entry on a filter of the session is due what the channel has.
- A member begins at the channel's head, whatever `sync.start` says: what is older was written for others.
- A member's in-flight messages are stored with it, not with its session: its offset and its list are of one write.
- Its epoch rises with each connection, as the session's own does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from broker.packets import overlap
from broker.sessions.cursor import Cursor
from broker.sessions.timeline import Timeline, channel_filter, channel_inbox
from broker.sessions.window import Window
from storage.records import Device, DeviceKey, Inflight, Progress, Subscription


class Member:
    """A session's place in one channel. ``since``: by filter, the entry after which what it matches is due."""

    __slots__ = ("_position", "_stored", "channel", "epoch", "head", "key", "reader", "since")

    def __init__(self, channel: Timeline, device: DeviceKey, epoch: int) -> None:
        self.channel = channel
        self.key = member_key(channel, device)
        self.epoch = epoch
        self.since: dict[str, int] = {}
        self.head = 0
        """The channel's head as of the commit that opened the present connection."""
        self.reader: Cursor | None = None
        """While the session is connected: where it stands."""
        self._position = 0
        self._stored: tuple[int, int, list[Inflight]] | None = None

    @property
    def position(self) -> int:
        """The highest entry that was looked at."""
        return self._position if self.reader is None else self.reader.position

    @property
    def idle(self) -> int:
        """By how many entries it has moved on without that being stored."""
        return 0 if self.reader is None else self.reader.position - self.reader.saved

    def begin(self, position: int, head: int) -> None:
        """It is stored, and begins after ``position``."""
        self._position, self.head = position, head

    def attach(self, reader: Cursor) -> None:
        """A connection begins to read."""
        self.reader = reader

    def detach(self) -> None:
        """The connection ended: remember where it stood."""
        self._position, self.reader = self.position, None

    @classmethod
    def load(cls, channel: Timeline, device: DeviceKey, stored: Device) -> Member:
        """The member as storage had it."""
        member = cls(channel, device, stored.epoch)
        member.since = {name: subscription.since for name, subscription in stored.subscriptions.items()}
        member._position = stored.cursor
        return member

    def go_back(self, seq: int) -> None:
        """An entry is to be looked at again."""
        self._position = min(self._position, seq - 1)

    def acknowledged(self, through: int) -> None:
        """A reader without a connection has done all up to an entry."""
        self._position = max(self._position, through)

    def due(self, granted: Iterable[Subscription], seq: int) -> list[Subscription]:
        """Those of the session's matching subscriptions that an entry is due to."""
        since = self.since
        return [subscription for subscription in granted if since.get(subscription.filter, seq) < seq]

    def progress(self, window: Window) -> Progress | None:
        """Its offset, cursor and in-flight messages, to be stored; None where they are already, or are about to be."""
        position, channel = self.position, self.channel
        if self.reader is not None:
            self.reader.saved = position
        inflight = [entry for entry in window.snapshot() if entry.timeline == channel]
        now = (window.offset(position, channel), position, inflight)
        if now == self._stored:
            return None
        self._stored = now
        return Progress(self.key, self.epoch, *now)


def member_key(channel: str, device: DeviceKey) -> DeviceKey:
    """A member, as a device of the channel: the length of its user key tells where the client id begins."""
    return DeviceKey(channel, f"{len(device.user)} {device.user} {device.client_id}")


def member_device(key: DeviceKey) -> DeviceKey:
    """The device that a member of a channel is."""
    length, _, rest = key.client_id.partition(" ")
    return DeviceKey(rest[: int(length)], rest[int(length) + 1 :])


def _nothing(topic: str) -> str:
    return ""


class Channels:
    """Which channels there are. ``filters`` have read fan-out now; ``filter_of`` says whose a topic is, empty for none.

    A channel that storage has and no filter names any more gets no further messages, and is read to its end.
    """

    def __init__(self, filters: Sequence[str] = (), filter_of: Callable[[str], str] = _nothing) -> None:
        self._filters = tuple(filters)
        self._filter_of = filter_of
        self._known: dict[Timeline, None] = dict.fromkeys(map(channel_inbox, filters))

    @property
    def known(self) -> list[Timeline]:
        """All that there are."""
        return list(self._known)

    @property
    def used(self) -> bool:
        """Whether any filter has read fan-out now."""
        return bool(self._filters)

    def of(self, topic: str) -> Timeline | None:
        """The channel of a topic; None where each user's inbox gets its messages."""
        filter_ = self._filter_of(topic)
        return channel_inbox(filter_) if filter_ else None

    def found(self, channel: str) -> None:
        """Storage has a member of this channel."""
        self._known[Timeline(channel)] = None

    def joined_by(self, filter_: str) -> list[Timeline]:
        """The channels that a session with this filter is a member of: those that may have something for it."""
        return [channel_inbox(shared) for shared in self._filters if overlap(shared, filter_)]

    def serving(self, filters: Iterable[str]) -> list[Timeline]:
        """The channels that a session with these filters may be a member of, also such as get nothing more."""
        if not self._known:
            return []
        wanted = list(filters)
        return [c for c in self._known if any(overlap(channel_filter(c), filter_) for filter_ in wanted)]
