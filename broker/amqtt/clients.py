"""Which clients there are on all nodes, what they subscribed to, and the end of their connections by hand.

- Of who is connected its own node tells; of who is not, storage. So a page asks each node for a page of its own, and goes once
  through the stored devices: its memory is that of a page, however many there are.
- A node that does not answer in time is named, as what it has is missing then.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.connection import Connection, NoDevice, end_connections
from broker.packets import ReasonCode, matches, parse_share
from broker.sessions import is_shared
from storage.errors import StorageUnavailable
from storage.records import Device, DeviceKey, Subscription

if TYPE_CHECKING:
    from broker.amqtt.node import Node
    from broker.amqtt.server_api import ServerApi
    from broker.sessions import Session
    from storage.interface import Storage

Row = dict[str, Any]
"""Plain values, as they go from node to node. ``place`` is what rows are sorted by."""
_LIST, _KICK = "clients", "kick"


class Wanted(NamedTuple):
    """Which rows: of a ``user``, of a ``client`` id, only those that are ``connected`` or are not (1, 0; -1: both), behind a
    place, and at most ``limit``. ``subscriptions`` asks for a row for each subscription: to ``filter``, or that ``topic``
    matches."""

    user: str = ""
    client: str = ""
    connected: int = -1
    after: str = ""
    limit: int = 100
    subscriptions: int = 0
    filter: str = ""
    topic: str = ""


class Listed(NamedTuple):
    """``silent`` are the names of nodes that did not answer."""

    rows: list[Row]
    more: bool
    silent: list[str]


class Kicked(NamedTuple):
    """Whose connections were ended."""

    devices: list[DeviceKey]
    silent: list[str]


class Clients:
    """The clients of all nodes, asked for at one of them."""

    def __init__(self, server: Node, api: ServerApi) -> None:
        self._server = server
        self._api = api

    @property
    def _storage(self) -> Storage:
        return self._server.storage

    def joined(self) -> None:
        """The node has joined a cluster: answer the others."""
        cluster = self._server.cluster
        assert cluster is not None
        cluster.answer_all(_LIST, lambda body: {"rows": self._connected(Wanted(**body))})
        cluster.answer_all(_KICK, lambda body: {"devices": [list(key) for key in self._kick(body["client"], body["user"])]})

    async def _everywhere(self, kind: str, body: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
        cluster = self._server.cluster
        return ([], []) if cluster is None else await cluster.gather_all(kind, body)

    # --- listing -------------------------------------------------------------------------------------------------------

    async def listed(self, wanted: Wanted) -> Listed:
        """A page of rows, by user and client id (and filter)."""
        keep = _Smallest(wanted.after, wanted.limit + 1)
        if wanted.connected != 1:
            async for device in self._stored(wanted):
                if not (wanted.connected == 0 and (device.node or self._connection(device.key) is not None)):
                    keep.add(_rows(_stored_row(device), device.subscriptions.values(), wanted))
        silent: list[str] = []
        if wanted.connected != 0:
            keep.add(self._connected(wanted))
            answers, silent = await self._everywhere(_LIST, wanted._asdict())
            for one in answers:
                keep.add(one["rows"])
        rows = keep.rows()
        return Listed(rows[: wanted.limit], len(rows) > wanted.limit, silent)

    def _connected(self, wanted: Wanted) -> list[Row]:
        """Those of this node."""
        sessions = self._server.sessions
        keep = _Smallest(wanted.after, wanted.limit + 1)
        for session in sessions.of(wanted.user) if wanted.user else sessions:
            connection = session.connection
            if isinstance(connection, Connection) and connection.open and wanted.client in ("", session.key.client_id):
                keep.add(_rows(_connected_row(session, connection), session.subscriptions.values(), wanted))
        return keep.rows()

    async def _stored(self, wanted: Wanted) -> AsyncIterator[Device]:
        if wanted.user and wanted.client:
            device = await self._storage.device(DeviceKey(wanted.user, wanted.client))
            found = _each([] if device is None else [device])
        else:
            found = _each(await self._storage.devices_of(wanted.user)) if wanted.user else self._storage.devices()
        async for device in found:
            key = device.key
            if not is_shared(key.user) and wanted.client in ("", key.client_id) and not self._server.sessions.ending(key):
                yield device

    def _connection(self, key: DeviceKey) -> Connection | None:
        session = self._server.sessions.get(key)
        connection = None if session is None else session.connection
        return connection if isinstance(connection, Connection) and connection.open else None

    # --- ending --------------------------------------------------------------------------------------------------------

    async def kick(self, client: str, user: str = "") -> Kicked:
        """End the connections of a client id, of all users or of one, on any node. Their sessions stay."""
        devices = self._kick(client, user)
        answers, silent = await self._everywhere(_KICK, {"client": client, "user": user})
        devices += [DeviceKey(*key) for one in answers for key in one["devices"]]
        return Kicked(devices, silent)

    def _kick(self, client: str, user: str) -> list[DeviceKey]:
        def meant(connection: Connection) -> bool:
            return connection.client_id == client and user in ("", connection.info.identity.user_key)

        return self.disconnect(meant, ReasonCode.ADMINISTRATIVE_ACTION, "ended by an administrator")

    def disconnect(self, meant: Callable[[Connection], bool], code: int, text: str) -> list[DeviceKey]:
        """End the connections of this node's clients that are meant; also of those that are just being let in."""
        return end_connections(self._server.connections, meant, text, code)

    async def forget(self, client: str, user: str = "") -> Kicked:
        """End the connections, and the sessions too, once that is durable."""
        kicked = await self.kick(client, user)
        keys = {*kicked.devices, *[device.key async for device in self._stored(Wanted(user=user, client=client))]}
        if kicked.silent and not keys:
            raise StorageUnavailable(f"nodes do not answer: {', '.join(kicked.silent)}")
        for key in keys:
            with suppress(NoDevice):  # a clean session ended with its connection
                await self._api.readers.forget(key)
        return Kicked(sorted(keys), kicked.silent)


class _Smallest:
    """The first rows behind a place."""

    def __init__(self, after: str, count: int) -> None:
        self._after = after
        self._count = count
        self._rows: dict[str, Row] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """What comes later counts more: it is of who has the connection."""
        for row in rows:
            if row["place"] > self._after:
                self._rows[row["place"]] = row
        if len(self._rows) >= 2 * self._count + 100:
            self._rows = {row["place"]: row for row in self.rows()}

    def rows(self) -> list[Row]:
        return heapq.nsmallest(self._count, self._rows.values(), key=lambda row: str(row["place"]))


async def _each(devices: list[Device]) -> AsyncIterator[Device]:
    for device in devices:
        yield device


def _rows(row: Row, subscriptions: Iterable[Subscription], wanted: Wanted) -> list[Row]:
    """A client's row, or one for each of its subscriptions that is wanted."""
    if not wanted.subscriptions:
        return [row]
    of = {name: row[name] for name in ("user", "client", "connected")}
    return [
        {"place": f"{row['place']}\0{s.filter}", **of, "filter": s.filter, "qos": s.options & 3}
        for s in subscriptions
        if wanted.filter in ("", s.filter) and (not wanted.topic or matches(_plain(s.filter), wanted.topic))
    ]


def _plain(filter_: str) -> str:
    shared = parse_share(filter_)
    return filter_ if shared is None else shared[1]


def _stored_row(device: Device) -> Row:
    return _row(device.key, device.node > 0, True, device.subscriptions) | {
        "offset": device.offset,
        "inflight_out": len(device.inflight),
        "expires_at": device.expires_at,
    }


def _connected_row(session: Session, connection: Connection) -> Row:
    return _row(session.key, True, session.durable, session.subscriptions) | {
        "offset": session.offset if session.durable else -1,
        "inflight_in": connection.inbound,
        "inflight_out": len(session.window),
        "address": connection.peer,
        "listener": connection.listener,
        "protocol": connection.version,
        "keep_alive": connection.keep_alive,
        "since": connection.since,
    }


def _row(key: DeviceKey, connected: bool, durable: bool, subscriptions: Mapping[str, Subscription]) -> Row:
    return {
        "place": f"{key.user}\0{key.client_id}",
        "user": key.user,
        "client": key.client_id,
        "connected": connected,
        "durable": durable,
        "subscriptions": len(subscriptions),
    }
