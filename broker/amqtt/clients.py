"""Which clients there are on all nodes, what they subscribed to, and the end of their connections by hand.

- Of who is connected its own node tells; of who is not, storage. Each gives the first rows behind a place, and says how far it
  has looked: to there, the rows of all together are complete. So a page costs a page, however many sessions there are.
- Where few of those that are looked at are wanted, it is looked again and again, in steps that hold nobody up.
- A node that does not answer in time is named, as what it has is missing then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.amqtt.stored_sessions import stored_from, stored_named
from broker.connection import Connection, NoDevice, end_connections
from broker.packets import ReasonCode, matches, parse_share
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
_LOOK = 1000
"""Sessions that are looked at in one step."""
_MOST = 100_000
"""And for one page; it may then be short, or empty, and have a ``next``."""


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
    """``next`` is behind which place to go on, empty at the end; ``silent`` are the names of nodes that did not answer."""

    rows: list[Row]
    next: str
    silent: list[str]


class _Part(NamedTuple):
    """What one of those who are asked has: rows, in order, and the place up to which that is all; empty for the end."""

    rows: list[Row]
    through: str


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
        cluster.answer_all(_LIST, lambda body: self._connected(Wanted(**body))._asdict())
        cluster.answer_all(_KICK, lambda body: {"devices": [list(key) for key in self._kick(body["client"], body["user"])]})

    async def _everywhere(self, kind: str, body: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
        cluster = self._server.cluster
        return ([], []) if cluster is None else await cluster.gather_all(kind, body)

    # --- listing -------------------------------------------------------------------------------------------------------

    async def listed(self, wanted: Wanted) -> Listed:
        """A page of rows, by user and client id (and filter)."""
        rows: list[Row] = []
        silent: dict[str, None] = {}
        for _ in range(_MOST // _LOOK):
            page = await self._look(wanted._replace(limit=wanted.limit - len(rows)))
            rows += page.rows
            silent |= dict.fromkeys(page.silent)
            wanted = wanted._replace(after=page.next)
            if not page.next or len(rows) == wanted.limit:
                break
        return Listed(rows, wanted.after, list(silent))

    async def named(self, client: str, user: str = "", most: int = 2) -> Listed:
        """The clients of an id, of all users or of one; of more than ``most`` so many."""
        wanted = Wanted(user, client, limit=most)
        found = page = await self.listed(wanted)
        while page.next and len(found.rows) < most:
            page = await self.listed(wanted._replace(after=page.next))
            found = Listed(found.rows + page.rows, page.next, sorted({*found.silent, *page.silent}))
        return found

    async def _look(self, wanted: Wanted) -> Listed:
        """Those rows of a page that one step finds."""
        parts: list[_Part] = []
        silent: list[str] = []
        if wanted.connected != 1:
            parts.append(await self._stored(wanted))
        if wanted.connected != 0:
            parts.append(self._connected(wanted))
            answers, silent = await self._everywhere(_LIST, wanted._asdict())
            parts += [_Part(one["rows"], one.get("through", "")) for one in answers]
        through = min((part.through for part in parts if part.through), default="")
        # What comes later counts more: it is of who has the connection.
        found = {row["place"]: row for part in parts for row in part.rows if not through or row["place"] <= through}
        rows = sorted(found.values(), key=_place)
        if len(rows) > wanted.limit:
            return Listed(rows[: wanted.limit], rows[wanted.limit - 1]["place"], silent)
        return Listed(rows, through, silent)

    def _connected(self, wanted: Wanted) -> _Part:
        """Those of this node."""
        rows: list[Row] = []
        begin, sessions = _begin(wanted), self._server.sessions
        named = wanted.client and not wanted.user
        found = sessions.named_since(wanted.client, begin.user) if named else sessions.since(begin)
        for looked, session in enumerate(found):
            key, connection = session.key, session.connection
            if _past(wanted, key):
                break
            if isinstance(connection, Connection) and connection.open and wanted.client in ("", key.client_id):
                rows += _rows(_connected_row(session, connection), session.subscriptions.values(), wanted)
            if len(rows) > wanted.limit or looked == _LOOK:
                return _Part(rows, _behind(key))
        return _Part(rows, "")

    async def _stored(self, wanted: Wanted) -> _Part:
        rows: list[Row] = []
        looked = 0
        begin, page = _begin(wanted), wanted.limit + 2  # one may be behind us
        named = wanted.client and not wanted.user
        found = stored_named(self._server, wanted.client, begin.user, page) if named else stored_from(self._server, begin, page)
        async for device in found:
            key = device.key
            if _past(wanted, key):
                break
            elsewhere = wanted.connected == 0 and (device.node or self._connection(key) is not None)
            if wanted.client in ("", key.client_id) and not elsewhere:
                rows += _rows(_stored_row(device), device.subscriptions.values(), wanted)
            looked += 1
            if len(rows) > wanted.limit or looked == _LOOK:
                return _Part(rows, _behind(key))
        return _Part(rows, "")

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
        there = await self.named(client, user, _MOST)
        keys = {*kicked.devices, *(DeviceKey(row["user"], row["client"]) for row in there.rows if row["durable"])}
        if kicked.silent and not keys:
            raise StorageUnavailable(f"nodes do not answer: {', '.join(kicked.silent)}")
        for key in keys:
            with suppress(NoDevice):  # a clean session ended with its connection
                await self._api.readers.forget(key)
        return Kicked(sorted(keys), kicked.silent)


def _past(wanted: Wanted, key: DeviceKey) -> bool:
    """Whether no session from this one on is wanted."""
    return bool(wanted.user) and (key.user != wanted.user or (bool(wanted.client) and key.client_id > wanted.client))


def _begin(wanted: Wanted) -> DeviceKey:
    """Where to begin: the session itself may have more rows."""
    user, _, rest = wanted.after.partition("\0")
    begin = DeviceKey(user, rest.partition("\0")[0])
    return max(begin, DeviceKey(wanted.user, wanted.client if wanted.user else ""))


def _behind(key: DeviceKey) -> str:
    """The place behind all that is of a session: no name holds a control character."""
    return f"{key.user}\0{key.client_id}\1"


def _place(row: Row) -> str:
    return str(row["place"])


def _rows(row: Row, subscriptions: Iterable[Subscription], wanted: Wanted) -> list[Row]:
    """A client's row, or one for each of its subscriptions that is wanted: those behind the place."""
    if not wanted.subscriptions:
        return [row] if row["place"] > wanted.after else []
    of = {name: row[name] for name in ("user", "client", "connected")}
    rows = [
        {"place": f"{row['place']}\0{s.filter}", **of, "filter": s.filter, "qos": s.options & 3}
        for s in subscriptions
        if wanted.filter in ("", s.filter) and (not wanted.topic or matches(_plain(s.filter), wanted.topic))
    ]
    return [row for row in rows if row["place"] > wanted.after]


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
