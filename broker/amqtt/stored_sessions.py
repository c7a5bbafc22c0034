"""The sessions that storage has, read in pages that hold nobody up. One that has just ended is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from broker.sessions import SHARED_END, is_shared
from storage.records import Device, DeviceKey

if TYPE_CHECKING:
    from broker.amqtt.node import Node

_READ = 500
"""Devices that are read at once."""


async def stored_from(server: Node, key: DeviceKey, page: int) -> AsyncIterator[Device]:
    """The stored devices from a key on, by key, read in pages. A session that has just ended is none."""
    limit = min(page, _READ)
    while True:
        found = await server.storage.devices_from(key, limit)
        for device in found:
            if not is_shared(device.key.user) and not server.sessions.ending(device.key):
                yield device
        if len(found) < limit:
            return
        last = found[-1].key
        key = DeviceKey(SHARED_END, "") if is_shared(last.user) else DeviceKey(last.user, f"{last.client_id}\0")
        limit = _READ


async def stored_named(server: Node, client: str, user: str, page: int) -> AsyncIterator[Device]:
    """The same of those with a client id, from a user on."""
    limit = min(page, _READ)
    while True:
        found = await server.storage.devices_named(client, user, limit)
        for device in found:
            if not is_shared(device.key.user) and not server.sessions.ending(device.key):
                yield device
        if len(found) < limit:
            return
        last = found[-1].key.user
        user = SHARED_END if is_shared(last) else f"{last}\0"
        limit = _READ
