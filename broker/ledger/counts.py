"""How many have a message, and how far they are. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from broker.ledger.pages import Holder
from broker.ledger.standing import State


@dataclass(slots=True)
class Users:
    """Each count includes the ones that follow it, but for ``read``: who reads the history was given nothing."""

    stored: int = 0
    delivered: int = 0
    acknowledged: int = 0
    read: int = 0


@dataclass(slots=True)
class Devices:
    """``not_due``: of the users who have the message, those devices that it is not for."""

    due: int = 0
    delivered: int = 0
    acknowledged: int = 0
    not_due: int = 0


@dataclass(slots=True)
class Groups:
    """Of shared subscriptions, each of which has one inbox for all of its members."""

    stored: int = 0
    acknowledged: int = 0


@dataclass(slots=True)
class Counts:
    """A user is as far as the device that is furthest."""

    users: Users = field(default_factory=Users)
    devices: Devices = field(default_factory=Devices)
    groups: Groups = field(default_factory=Groups)

    @classmethod
    def of(cls, holders: Iterable[Holder]) -> Counts:
        """The counts of a page."""
        counts = cls()
        for holder in holders:
            if holder.counted:
                counts._add(holder)
        return counts

    def _add(self, holder: Holder) -> None:
        state = holder.state
        if holder.group:
            self.groups.stored += 1
            self.groups.acknowledged += state is State.ACKNOWLEDGED
            return
        users, devices = self.users, self.devices
        users.stored += 1
        users.delivered += state >= State.DELIVERED
        users.acknowledged += state is State.ACKNOWLEDGED
        users.read += holder.read
        for device in holder.devices:
            one = device.place.state
            devices.not_due += one is State.NOT_DUE
            devices.due += one is not State.NOT_DUE
            devices.delivered += one >= State.DELIVERED
            devices.acknowledged += one is State.ACKNOWLEDGED

    def shown(self) -> dict[str, dict[str, int]]:
        """As JSON."""
        return asdict(self)
