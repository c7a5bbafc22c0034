"""How sessions become members of channels (`broker.sessions.channel`), and cease to be: with the filters that they have.

- A filter that may match what a channel has makes its session a member, in the group that stores the subscription, and first.
  So whoever has such a filter is a member, and is due what the channel has from the place of its SUBSCRIBE on.
- The filter stays a subscription of the inbox, too: it may match topics of both.
- A member leaves with the last of its filters, or with its session.
- At a start, who subscribed before a filter had read fan-out is made a member: what comes from then on goes to the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from broker.packets import SHARE
from broker.sessions import NOT_YET, Channels, Member, Session, Timeline, member_device, member_key
from storage.records import (
    NEVER,
    CloseSession,
    Device,
    DeviceKey,
    OpenSession,
    Operation,
    Subscribe,
    Subscription,
    Unsubscribe,
)

_AT_ONCE = 500


class Readers(Protocol):
    """What delivers to the connected."""

    def joined_channel(self, session: Session, member: Member) -> None:
        """The session is a member of one more channel, durably."""

    def left_channel(self, session: Session, member: Member) -> None:
        """It is a member no longer."""


class Stored(Protocol):
    """The storage."""

    async def device(self, key: DeviceKey) -> Device | None: ...

    async def commit(self, group: list[Operation]) -> None: ...


class ChannelMembers:
    """Joins and leaves. ``time`` is what epochs begin after (`broker.sessions.Sessions`)."""

    def __init__(self, channels: Channels, readers: Readers, time: Callable[[], int]) -> None:
        self._channels = channels
        self._readers = readers
        self._time = time
        self._unpaired: dict[tuple[DeviceKey, str], bool] = {}
        """At a start: filters by member of which one side was seen, True for the device's and False for the member's."""

    # --- with a subscription -------------------------------------------------------------------------------------------

    def join(self, session: Session, filters: Iterable[str]) -> list[Joining]:
        """The session has these filters from here on; what is to be stored in channels, and done once that is durable."""
        joinings: dict[Timeline, Joining] = {}
        for filter_ in filters:
            if filter_.startswith(SHARE):
                continue
            for channel in self._channels.joined_by(filter_):
                member = None if session.channels is None else session.channels.get(channel)
                fresh = member is None
                if member is None:
                    member = Member(channel, session.key, self._epoch(session))
                    if session.channels is None:
                        session.channels = {}
                    session.channels[channel] = member
                if filter_ in member.since:
                    continue
                member.since[filter_] = NOT_YET
                if channel not in joinings:
                    joinings[channel] = Joining(self._readers, session, member, fresh=fresh)
                joinings[channel].wanted.append(Subscription(filter_, 0, since=-1))
        return list(joinings.values())

    def _epoch(self, session: Session) -> int:
        """Above those of an earlier place of the session there, which may be remembered as ended."""
        session.member_epoch = max(session.member_epoch, self._time()) + 1
        return session.member_epoch

    def leave(self, session: Session, filter_: str) -> list[Operation]:
        """The session has the filter no longer; what is to be stored for that."""
        operations: list[Operation] = []
        for member in session.members:
            if member.since.pop(filter_, None) is None:
                continue
            if member.since:
                operations.append(Unsubscribe(member.key, member.epoch, [filter_]))
                continue
            operations.append(self._leave(session, member))
            if not session.ended:
                operations.append(session.progress())  # it keeps what of the channel is in flight at QoS 2
        return operations

    def ended(self, session: Session) -> list[Operation]:
        """The session ends; what is to be stored for that."""
        return [self._leave(session, member) for member in session.members]

    def _leave(self, session: Session, member: Member) -> Operation:
        assert session.channels is not None
        session.member_epoch = max(session.member_epoch, member.epoch)
        self._readers.left_channel(session, member)
        del session.channels[member.channel]
        if not session.channels:
            session.channels = None
        return CloseSession(member.key, member.epoch, True)

    # --- at a start ----------------------------------------------------------------------------------------------------

    def member_stored(self, channel: str, client_id: str, filter_: str) -> None:
        """Storage has a member with a filter."""
        self._channels.found(channel)
        if self._channels.used:
            self._seen(DeviceKey(channel, client_id), filter_, device=False)

    def device_stored(self, device: DeviceKey, filter_: str) -> None:
        """Storage has a device with a filter."""
        for channel in self._channels.joined_by(filter_):
            self._seen(member_key(channel, device), filter_, device=True)

    def _seen(self, member: DeviceKey, filter_: str, *, device: bool) -> None:
        if self._unpaired.pop((member, filter_), device) != device:
            return
        self._unpaired[member, filter_] = device

    async def complete(self, storage: Stored) -> int:
        """All that is stored was told of: make members of the devices that should be and are not; how many those were.

        Raises `StorageError`.
        """
        missing: dict[DeviceKey, list[Subscription]] = {}
        for (key, filter_), device in self._unpaired.items():
            if device:
                missing.setdefault(key, []).append(Subscription(filter_, 0, since=-1))
        self._unpaired.clear()
        keys = list(missing)
        for start in range(0, len(keys), _AT_ONCE):
            operations: list[Operation] = []
            for key in keys[start : start + _AT_ONCE]:
                if await storage.device(member_device(key)) is not None:
                    known = await storage.device(key)
                    epoch = self._time() + 1 if known is None else known.epoch
                    if known is None:
                        operations.append(OpenSession(key, epoch, False, NEVER))
                    operations.append(Subscribe(key, epoch, missing[key]))
                    if known is None:
                        operations.append(CloseSession(key, epoch, False))
            await storage.commit(operations)
        return len(keys)


class Joining:
    """A session becomes a member, or one with more filters: what is stored for it, and then done."""

    def __init__(self, readers: Readers, session: Session, member: Member, *, fresh: bool) -> None:
        self._readers = readers
        self._session = session
        self._member = member
        self._opening = OpenSession(member.key, member.epoch, False, NEVER) if fresh else None
        self.wanted: list[Subscription] = []

    def operations(self) -> list[Operation]:
        """What is to be stored before the session's own subscription."""
        member = self._member
        stored: list[Operation] = [] if self._opening is None else [self._opening]
        stored.append(Subscribe(member.key, member.epoch, self.wanted))
        if self._opening is not None and self._session.connection is None:
            stored.append(CloseSession(member.key, member.epoch, False))
        return stored

    def done(self) -> None:
        """It is durable: the filters have their places, and a connected member reads."""
        session, member, opening = self._session, self._member, self._opening
        for subscription in self.wanted:
            if member.since.get(subscription.filter) == NOT_YET:
                member.since[subscription.filter] = subscription.since
        if opening is not None:
            member.begin(opening.offset, opening.head)
            if session.channels is not None and session.channels.get(member.channel) is member:
                self._readers.joined_channel(session, member)
