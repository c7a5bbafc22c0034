"""Who has one message, how far each device is, and since when: a page at a time, of bounded cost.

The inboxes that may have it are those of who takes part in its conversation, and of whose filters match its topic now; where
each has it, storage finds by halving. They are gone through by key. The members of a channel are paged too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple, Protocol

from broker.ledger.standing import Place, Standing, State, place
from broker.ledger.steps import Between, Steps
from broker.sessions import is_channel, is_group
from storage.interface import Storage
from storage.records import Message

TABLE = "ledger"
"""The rows with the steps of devices: their part is the inbox, their key the device's name in storage."""
READ = "ledger read"
"""Those with the steps of read positions, by topic: their part is the user."""
_MORE, _ROWS = 50, 500


class Standings(Protocol):
    """Where devices stand now, and who may have a message."""

    def recipients(self, topic: str) -> Iterable[str]:
        """The inboxes that a message of the topic may be in, as filters are now, in no order: users', groups', channels'."""

    async def of_inboxes(self, inboxes: Sequence[str]) -> Mapping[str, Sequence[Standing]]:
        """All devices of each inbox."""

    async def of_channel(self, channel: str, after: str, limit: int) -> Sequence[Standing]:
        """Members of a channel with a name > ``after``, by name."""

    async def may_receive(self, standing: Standing, topic: str) -> bool:
        """Whether access control lets the device receive the topic."""

    def now(self) -> int:
        """The time (ms) that what expires is compared with."""


class DevicePlace(NamedTuple):
    """One device. The times are those that are known."""

    client: str
    connected: bool
    place: Place
    delivered: Between | None = None
    acknowledged: Between | None = None


_NEVER_ITS = ("filter", "since")
"""Why a member of a channel never had what is in it."""


@dataclass(slots=True)
class Holder:
    """A user, or a group of a shared subscription, in whose inbox (or, of a user, in whose channel) a message is."""

    user: str
    inbox: str
    entry: int
    read: bool = False
    read_at: Between | None = None
    devices: list[DevicePlace] = field(default_factory=list)

    @property
    def group(self) -> bool:
        """Whether it is a shared subscription's."""
        return is_group(self.user)

    @property
    def counted(self) -> bool:
        """Whether the user has it. A channel has it for all members, also for those whose filters don't match or came later."""
        return not is_channel(self.inbox) or any(one.place.reason not in _NEVER_ITS for one in self.devices)

    @property
    def state(self) -> State:
        """Of the device that is furthest."""
        return max((device.place.state for device in self.devices), default=State.STORED)


class Page(NamedTuple):
    """Some of who has a message. ``next`` is the ``after`` of the page behind it; empty at the end."""

    holders: list[Holder]
    next: str


class Ledger:
    """Answers for one message after the other. ``times``: tell since when, too, which costs more reads."""

    def __init__(self, storage: Storage, standings: Standings, *, times: bool = True) -> None:
        self._storage = storage
        self._standings = standings
        self._times = times

    async def page(self, message: Message, after: str = "", limit: int = 100) -> Page:
        """Up to ``limit`` users behind ``after``; somewhat more, so that one's devices are on one page, and fewer where not all
        that may have it do."""
        holders: list[Holder] = []
        inbox, _, member = after.partition("\0")
        left = limit
        if member:
            some, member, looked = await self._of_channel(message, inbox, member, left)
            holders += some
            if member:
                return Page(holders, f"{inbox}\0{member}")
            left -= looked
        while left > 0:
            names = await self._inboxes(message.topic, inbox, left)
            if not names:
                return Page(holders, "")
            if is_channel(names[0]):
                inbox = names[0]
                some, member, looked = await self._of_channel(message, inbox, "", left)
                holders += some
                if member:
                    return Page(holders, f"{inbox}\0{member}")
                left -= looked
                continue
            names = list(takewhile(lambda name: not is_channel(name), names))
            holders += await self._of_inboxes(message, names)
            inbox = names[-1]
            left -= len(names)
        return Page(holders, inbox)

    async def _inboxes(self, topic: str, after: str, limit: int) -> list[str]:
        """The next inboxes that may have a message of the topic, by key."""
        taking_part = await self._storage.participants(topic, after, limit)
        start = after.encode()
        matching = (name for name in self._standings.recipients(topic) if name.encode() > start)
        return heapq.nsmallest(limit, {*taking_part, *matching}, key=str.encode)

    async def of_users(self, message: Message, entries: Mapping[str, int]) -> list[Holder]:
        """Those users of whom it is known at which sequence their inboxes have the message."""
        return await self._holders(message, entries)

    async def _of_inboxes(self, message: Message, names: Sequence[str]) -> list[Holder]:
        found = await self._storage.entries_of(message, names)
        return await self._holders(message, {name: seq for name, seq in zip(names, found, strict=True) if seq})

    async def _holders(self, message: Message, entries: Mapping[str, int]) -> list[Holder]:
        if not entries:
            return []
        standings = await self._standings.of_inboxes(list(entries))
        holders = []
        for name, entry in entries.items():
            holder = Holder(name, name, entry)
            steps = await self._steps(name, message)
            for standing in standings.get(name, ()):
                holder.devices.append(await self._device(message, entry, standing, steps.get(standing.name)))
            holders.append(holder)
        await self._read(message, holders)
        return holders

    async def _of_channel(self, message: Message, channel: str, after: str, limit: int) -> tuple[list[Holder], str, int]:
        """Members behind one; the one to go on behind, empty at the end; and how many were looked at."""
        (entry,) = await self._storage.entries_of(message, [channel])
        if not entry:
            return [], "", 1
        members = list(await self._standings.of_channel(channel, after, limit))
        more = len(members) == limit
        same = more
        while same:  # the rest of the last one's devices
            behind = await self._standings.of_channel(channel, members[-1].name, _MORE)
            ours = [one for one in behind if one.user == members[-1].user]
            members += ours
            more, same = bool(behind), len(ours) == _MORE
        holders: dict[str, Holder] = {}
        steps = await self._steps(channel, message, after, members[-1].name) if members else {}
        for standing in members:
            holder = holders.setdefault(standing.user, Holder(standing.user, channel, entry))
            holder.devices.append(await self._device(message, entry, standing, steps.get(standing.name)))
        found = list(holders.values())
        await self._read(message, found)
        return found, members[-1].name if more else "", max(1, len(members))

    async def _device(self, message: Message, entry: int, standing: Standing, steps: Steps | None) -> DevicePlace:
        allowed = is_group(standing.user) or await self._standings.may_receive(standing, message.topic)
        delivered = steps.delivered(entry) if steps is not None else None
        passed = delivered.after if delivered is not None else 0
        is_ = place(standing, entry, message, now=self._standings.now(), allowed=allowed, passed_after=passed)
        since = message.time  # before which nothing happened to it
        if steps is None or delivered is None or not self._times:
            return DevicePlace(standing.client, standing.connected, is_)
        return DevicePlace(
            standing.client,
            standing.connected,
            is_,
            delivered.from_(since) if is_.state >= State.DELIVERED else None,
            steps.acknowledged(entry).from_(since) if is_.state is State.ACKNOWLEDGED else None,
        )

    async def _steps(self, inbox: str, message: Message, after: str = "", last: str = "") -> dict[str, Steps]:
        """Of the inbox's devices, or of those behind a name up to a last one. One that expires is passed over by who comes too
        late, which only times tell."""
        found: dict[str, Steps] = {}
        more = self._times or message.expires > 0
        while more:
            rows = await self._storage.rows(TABLE, inbox, after=after, limit=_ROWS)
            found |= {row.key: Steps.unpacked(row.value) for row in rows}
            more = len(rows) == _ROWS and (not last or rows[-1].key.encode() < last.encode())
            after = rows[-1].key if rows else ""
        return found

    async def _read(self, message: Message, holders: Sequence[Holder]) -> None:
        users = [holder for holder in holders if not holder.group]
        positions = await self._storage.read_positions(message.topic, [holder.user for holder in users])
        for holder, position in zip(users, positions, strict=True):
            holder.read = position >= message.seq
            if holder.read and self._times:
                row = await self._storage.row(READ, holder.user, message.topic)
                if row is not None:
                    holder.read_at = Steps.unpacked(row.value).delivered(message.seq).from_(message.time)
