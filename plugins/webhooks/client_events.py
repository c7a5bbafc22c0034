"""Who comes and goes, stored as messages, so that it has a place among all that is stored, and is told over a restart.

- That a client came is durable before its CONNACK: the message is submitted right before what opens the session.
- A row for each connection stands in storage from the group of the one message to the group of the other. What a killed node
  left is told as gone, and the row goes in the group that tells it.
- What is lost: what another plugin refuses by failing before the commit, which is logged and counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from itertools import count
from typing import Any

from broker.access import SessionInfo
from broker.amqtt import BROKER_USER, Services, Undecided
from broker.hooks import Group
from broker.publication import Outgoing, Publication
from plugins.webhooks.config import CONNECTED, DISCONNECTED
from plugins.webhooks.events import CLIENTS
from storage.errors import StorageError
from storage.records import DropRow, PutRow, Row

log = logging.getLogger("tideline.webhooks")

_TABLE = "clients"
"""A part is the node that has the connections, as it was started."""
_LOOK = 5.0
"""Seconds between two looks at what hooks are done with, and at which nodes there are."""
_AT_ONCE = 200
_TIMEOUT = 10.0


class ClientEvents:
    """Stores them. Made before any client can connect."""

    def __init__(self, server: Services) -> None:
        self._server = server
        self._started = secrets.token_hex(8)
        self._numbers = count(1)
        self._connections: dict[object, str] = {}
        self._settled: set[str] | None = None
        self.lost = 0

    @property
    def _node(self) -> str:
        cluster = self._server.storage.cluster
        return self._started if cluster is None else str(cluster.me.token)

    def came(self, connection: object, info: SessionInfo) -> None:
        """See `broker.hooks.SessionPlugin.opening`."""
        self._connections[connection] = f"{self._node}/{next(self._numbers)}"
        self._tell(CONNECTED, self._connections[connection], info)

    def went(self, connection: object, info: SessionInfo) -> None:
        """See `broker.hooks.SessionPlugin.ended`."""
        self._tell(DISCONNECTED, self._connections.pop(connection), info)

    def _tell(self, kind: str, id: str, info: SessionInfo) -> None:
        user, address = info.identity.user_key, info.request.address
        data = {"connection": id, "user": user, "client": info.client_id, "address": address}
        self._server.submit(_message(kind, data)).add_done_callback(self._stored)

    def _stored(self, outcome: asyncio.Future[Publication]) -> None:
        if not outcome.cancelled() and (error := outcome.exception()) is not None:
            self.lost += 1
            log.error("an event of a client was refused, and is lost: %s", error)

    def keep(self, group: Group) -> None:
        """Before the commit: a policy would keep nothing below ``$``; and who is here has a row."""
        for append in group.appends:
            if append.message.topic == CLIENTS and append.message.user == BROKER_USER:
                append.store = True
                event = json.loads(append.message.payload)
                node, _, number = event["data"]["connection"].partition("/")
                came = event["type"] == CONNECTED
                value = json.dumps(event["data"]).encode()
                here = PutRow(_TABLE, node, number, value, of=append) if came else DropRow(_TABLE, node, number, of=append)
                group.operations.append(here)

    async def run(self, done: Callable[[], int | None]) -> None:
        """Until it is cancelled: on the node that runs the hooks, which are all ``done`` with the events up to that sequence
        (None on another node), tell what other nodes left, and remove what is told."""
        pruned = 0
        while True:
            try:
                if (seq := done()) is not None:
                    await self._settle()
                    if seq > max(1, pruned):
                        await self._server.storage.prune_conversation(CLIENTS, seq)
                        pruned = seq
            except (StorageError, Undecided) as error:
                log.debug("events of clients wait: %s", error)
            await asyncio.sleep(_LOOK)

    async def _settle(self) -> None:
        """Tell that the clients of nodes that are no more are gone."""
        before = await self._live()
        if before == self._settled:
            return
        storage = self._server.storage
        nodes = [node async for page in storage.parts(_TABLE) for node in page]
        live = await self._live()  # who has joined since has rows that were not looked at
        for node in nodes:
            while node not in live and (rows := await storage.rows(_TABLE, node, limit=_AT_ONCE)):
                gone = [_message(DISCONNECTED, _data(row)) for row in rows]
                for outcome in await self._server.append_all_within(gone, _TIMEOUT):
                    if isinstance(outcome, BaseException):
                        raise outcome
        self._settled = before

    async def _live(self) -> set[str]:
        nodes = await self._server.cluster()
        return {self._node} if nodes is None else {str(node.token) for node in nodes if node.state != "dead"}


def _data(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.value))


def _message(kind: str, data: dict[str, Any]) -> Publication:
    return Publication(Outgoing(CLIENTS, BROKER_USER, "", 0, json.dumps({"type": kind, "data": data}).encode()))
