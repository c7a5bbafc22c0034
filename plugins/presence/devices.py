"""Which devices are connected to this node, and of which that is still to be told. No I/O.

One that has gone counts as online for a while: where it is back by then, nothing happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from storage.records import DeviceKey


class Change(NamedTuple):
    """``since``: when a device came, or went (ms). ``passing``: it can never come back, and nothing is kept of it then."""

    device: DeviceKey
    online: bool
    since: int
    passing: bool = False


class Devices:
    """``grace``: seconds until one that has gone is told to be offline. Times are seconds, but for those that are told (ms)."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._connections: dict[DeviceKey, int] = {}
        """How many a device has: for a moment two, where one takes the other's place."""
        self._changed: dict[DeviceKey, Change] = {}
        """What is to be told."""
        self._leaving: dict[DeviceKey, tuple[float, int]] = {}
        """Until when one that has gone counts as online, by rising time; and when it went."""
        self._announced: set[DeviceKey] = set()
        """Those that were told to be online, or are being."""
        self._passing: set[DeviceKey] = set()

    def __len__(self) -> int:
        return len(self._connections)

    def came(self, device: DeviceKey, now: int, *, passing: bool = False) -> None:
        """A connection began. ``passing``: of a device that can never come back."""
        (self._passing.add if passing else self._passing.discard)(device)
        self._connections[device] = self._connections.get(device, 0) + 1
        known = self._changed.get(device)
        if self._leaving.pop(device, None) is None and device not in self._announced and (known is None or not known.online):
            self._changed[device] = Change(device, True, now, passing)

    def went(self, device: DeviceKey, now: int, at: float) -> None:
        """A connection ended."""
        left = self._connections.get(device, 0) - 1
        if left > 0:
            self._connections[device] = left
        elif self._connections.pop(device, None) is not None:
            self._leaving[device] = at + self._grace, now

    def due(self, at: float, most: int) -> list[Change]:
        """What is to be told now, at most so much; `again` gives back what could not be."""
        while self._leaving:
            device, (until, went) = next(iter(self._leaving.items()))
            if until > at:
                break
            del self._leaving[device]
            self._changed.pop(device, None)
            passing = device in self._passing
            self._passing.discard(device)
            if device in self._announced:
                self._changed[device] = Change(device, False, went, passing)
        found = [self._changed[device] for _, device in zip(range(most), self._changed, strict=False)]
        for change in found:
            del self._changed[change.device]
            (self._announced.add if change.online else self._announced.discard)(change.device)
        return found

    def again(self, changes: Iterable[Change]) -> None:
        """It is not known whether they are stored: tell them again, where nothing newer is to be told."""
        for change in changes:
            self._changed.setdefault(change.device, change)

    def next(self) -> float:
        """When something is due next, in seconds; 0 for at once, infinity for nothing."""
        if self._changed:
            return 0.0
        return next(iter(self._leaving.values()))[0] if self._leaving else math.inf
