"""How the connected devices stand, all together: counted when somebody asks, a stretch at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from broker.amqtt.api import ConnectedDevices

if TYPE_CHECKING:
    from broker.amqtt.node import Node
    from broker.sessions import Cursor, Session

_AT_ONCE = 1000
"""Connections that are looked at before others have their turn: half a millisecond."""


async def connected_devices(server: Node) -> ConnectedDevices:
    """Walk over the connections that there are now."""
    listeners = Counter({listener.name: 0 for listener in server.settings.listeners})
    inflight_in = inflight_out = lagging = lag = largest = 0
    for number, connection in enumerate(list(server.connections)):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        listeners[connection.listener] += 1
        inflight_in += connection.inbound
        session = connection.session
        if session is None or session.connection is not connection:
            continue
        inflight_out += len(session.window)
        behind = entries_behind(session)
        lag += behind
        lagging += behind > 0
        largest = max(largest, behind)
    return ConnectedDevices(dict(listeners), inflight_in, inflight_out, lagging, lag, largest)


def entries_behind(session: Session) -> int:
    """Entries of its timelines that a connected durable session has not looked at. A clean one is at the end of the store."""
    if not session.durable:
        return 0
    return _behind(session.reader) + sum(_behind(member.reader) for member in session.members)


def _behind(reader: Cursor | None) -> int:
    return 0 if reader is None else max(0, reader.head.seq - reader.position)
