"""The ledger of one message, as its callers see it, and who may see what.

- The operator, and the user who sent the message, while it is not barred from it: users, devices and times.
- Who may read the message: counts.
- Anybody else is told what is told of a message that there is none of.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from broker.amqtt import Services
from broker.ledger import Between, Counts, DevicePlace, Holder, Ledger
from broker.sessions import channel_filter, is_channel
from plugins.timelines import Forbidden, Timelines, Unprocessable, Who
from plugins.timelines.messages import hex_id, parse_id
from storage.records import Message

MOST_SHOWN = 500
"""Users of a page with their devices."""
DEVICES, MOST_DEVICES = 50, 10_000
"""Devices of each of them, unless more or fewer are asked for; and at most, of one and of all of a page together."""
MOST_COUNTED = 1000
"""Of one that only counts."""


class LedgerService:
    """Answers one caller. ``timelines`` says who may read what."""

    def __init__(self, server: Services, timelines: Timelines) -> None:
        self._server = server
        self._timelines = timelines

    async def counts(self, who: Who, message_id: str, after: str = "", limit: int = MOST_COUNTED) -> dict[str, Any]:
        """How many of a page's users and devices have it, were given it, have acknowledged and read it."""
        message, _ = await self._message(who, message_id)
        return await self._page(message, after, limit)

    async def devices(
        self, who: Who, message_id: str, after: str = "", limit: int = 100, devices: int = DEVICES
    ) -> dict[str, Any]:
        """The same, with each user and up to so many ``devices`` of each. Raises `Forbidden` for who may know counts only."""
        message, whole = await self._message(who, message_id)
        if not whole:
            raise Forbidden(f"message {message_id[:40]!r}: only its sender and the operator see who has it; ask for the counts")
        return await self._page(message, after, limit, devices)

    async def _message(self, who: Who, message_id: str) -> tuple[Message, bool]:
        """The message, and whether the caller may see all of its ledger. Raises `NotFound`."""
        number = parse_id(message_id)
        message = await self._server.storage.read_message(number) if number else None
        own = message is not None and (who.operator or message.user == who.user)
        if message is not None and own and not await self._timelines.barred(who, message):
            return message, True
        return await self._timelines.message(who, message_id), False

    async def _page(self, message: Message, after: str, limit: int, devices: int | None = None) -> dict[str, Any]:
        """``devices``: of each user; None counts only."""
        standings = self._server.standings()
        page = await Ledger(self._server.storage, standings, times=devices is not None).page(message, _place(after), limit)
        answer: dict[str, Any] = {
            "message": hex_id(message.id),
            "topic": message.topic,
            "seq": message.seq,
            "sender": message.user,
            "time": message.time,
            "counts": Counts.of(page.holders).shown(),
            "silent": sorted(standings.silent),
            "next": base64.urlsafe_b64encode(page.next.encode()).decode() if page.next else None,
        }
        if devices is not None:
            left = MOST_DEVICES
            answer["holders"] = holders = []
            for holder in page.holders:
                holders.append(rendered_holder(holder, min(devices, left)))
                left -= len(holders[-1]["devices"])
        return answer


def _place(after: str) -> str:
    try:
        return base64.b64decode(after, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unprocessable(f"after {after[:40]!r}: must be the `next` of the page before") from None


def rendered_holder(holder: Holder, devices: int) -> dict[str, Any]:
    """A user, or a shared subscription's group, as JSON; with so many of the devices."""
    return {
        "user": holder.user,
        "channel": channel_filter(holder.inbox) if is_channel(holder.inbox) else None,
        "entry": holder.entry,
        "state": holder.state.name.lower(),
        "read": holder.read,
        "read_at": _between(holder.read_at),
        "devices": [_device(device) for device in holder.devices[:devices]],
        "more_devices": max(0, len(holder.devices) - devices),
    }


def _device(device: DevicePlace) -> dict[str, Any]:
    return {
        "device": device.client,
        "connected": device.connected,
        "state": device.place.state.name.lower(),
        "reason": device.place.reason or None,
        "qos": device.place.qos,
        "delivered": _between(device.delivered),
        "acknowledged": _between(device.acknowledged),
    }


def _between(times: Between | None) -> dict[str, int | None] | None:
    return None if times is None else {"after": times.after or None, "until": times.until or None}
