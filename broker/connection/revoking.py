"""Ending connections for who administers: the one way, for bans, for users who are shut out, and by hand.

An open one is told a reason. One whose client is just being let in is refused. Sessions stay stored, and wills are
published, as after any connection that the server ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from broker.packets import ReasonCode
from storage.records import DeviceKey

if TYPE_CHECKING:
    from broker.connection.connection import Connection


def end_connections(
    connections: Iterable[Connection],
    meant: Callable[[Connection], bool],
    text: str,
    code: int = ReasonCode.ADMINISTRATIVE_ACTION,
) -> list[DeviceKey]:
    """End those that are meant, of clients that are known already; whose they were."""
    found: list[DeviceKey] = []
    for connection in list(connections):
        if connection.closed or not hasattr(connection, "info") or not meant(connection):
            continue
        found.append(DeviceKey(connection.info.identity.user_key, connection.client_id))
        if connection.open:
            connection.disconnect(code, text)
        else:
            connection.refuse(ReasonCode.NOT_AUTHORIZED, text)
    return found
