"""``tideline inspect message``: who has one message, as storage tells: of a device that is connected, up to a second late.

Access rules are not asked: the plugins that have them are not loaded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from broker.ledger import Between, DevicePlace, Holder, Ledger, Standing, stored_standing
from broker.packets import matches, parse_share
from broker.sessions import is_group
from storage.interface import Storage
from storage.records import Message

_PAGE = 256


class StoredStandings:
    """A `broker.ledger.Standings` of storage alone."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._recipients: list[str] = []

    async def look_for(self, topic: str) -> None:
        """Go through all filters for those that match a topic, which `recipients` is asked about next."""
        found: dict[str, None] = {}
        async for page in self._storage.subscribed():
            for user, _, filter_ in page:
                if parse_share(filter_) is None and matches(filter_, topic):
                    found[user] = None
        self._recipients = list(found)

    def recipients(self, topic: str) -> Iterable[str]:
        """See `broker.ledger.Standings`."""
        return self._recipients

    async def of_inboxes(self, inboxes: Sequence[str]) -> Mapping[str, Sequence[Standing]]:
        """See `broker.ledger.Standings`."""
        return {inbox: [stored_standing(one) for one in await self._storage.devices_of(inbox)] for inbox in inboxes}

    async def of_channel(self, channel: str, after: str, limit: int) -> Sequence[Standing]:
        """See `broker.ledger.Standings`."""
        return [stored_standing(one) for one in await self._storage.devices_of(channel, after, limit)]

    async def may_receive(self, standing: Standing, topic: str) -> bool:
        """See `broker.ledger.Standings`."""
        return True

    def now(self) -> int:
        """See `broker.ledger.Standings`."""
        return time.time_ns() // 1_000_000


async def device_rows(storage: Storage, message: Message) -> AsyncIterator[dict[str, Any]]:
    """A row for each device of each user, or group of a shared subscription, that has the message."""
    standings = StoredStandings(storage)
    await standings.look_for(message.topic)
    ledger, after = Ledger(storage, standings), ""
    while True:
        page = await ledger.page(message, after, _PAGE)
        for holder in page.holders:
            if not holder.devices:
                yield _row(holder, None)
            for device in holder.devices:
                yield _row(holder, device)
        after = page.next
        if not after:
            return


def _row(holder: Holder, device: DevicePlace | None) -> dict[str, Any]:
    place = None if device is None else device.place
    return {
        "user": holder.user,
        "device": "(shared group)" if is_group(holder.user) else "(none)" if device is None else device.client,
        "timeline": holder.inbox,
        "entry": holder.entry,
        "state": "stored" if place is None else place.state.name.lower(),
        "reason": "" if place is None else place.reason,
        "delivered": _times(None if device is None else device.delivered),
        "acknowledged": _times(None if device is None else device.acknowledged),
        "read": holder.read,
        "read_at": _times(holder.read_at),
    }


def _times(between: Between | None) -> list[int]:
    """After when and until when, in ms; 0 where that is not known, nothing where neither is."""
    return [] if between is None or between == (0, 0) else [*between]
