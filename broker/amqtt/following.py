"""Filters for all devices of a user, on whatever node: what a plugin has a user's devices follow, without their SUBSCRIBE.

Durable devices are subscribed where they are, connected or not; so are the connected clean sessions of each node. A device that
comes later is the plugin's to see to: `broker.hooks.SessionPlugin`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from broker.connection import NoDevice
from broker.packets import ReasonCode
from storage.ending import end
from storage.records import DeviceKey

if TYPE_CHECKING:
    from broker.amqtt.node import Node
    from broker.amqtt.server_api import ServerApi
    from broker.sessions import Session

_KIND = "follow"


class Following:
    """Subscribes and unsubscribes the devices of users."""

    def __init__(self, server: Node, api: ServerApi) -> None:
        self._server = server
        self._api = api
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, user: str, filter_: str, options: int) -> None:
        """Subscribe all devices of a user to a filter, whatever access rules say; durable where a device is. ``options`` are
        those of a SUBSCRIBE packet."""
        for key in await self._durable(user):
            await self.follow_one(key, filter_, options)
        await self._clean(user, filter_, options)
        if self._server.cluster is not None:
            self._server.cluster.note_user(user, _KIND, {"user": user, "filter": filter_, "options": options})

    async def unfollow(self, user: str, filter_: str) -> None:
        """Take a filter out of all devices of a user."""
        for key in await self._durable(user):
            with suppress(NoDevice):
                await self._api.readers.unsubscribe(key, filter_)
        await self._clean(user, filter_, -1)
        if self._server.cluster is not None:
            self._server.cluster.note_user(user, _KIND, {"user": user, "filter": filter_, "options": -1})

    async def follow_one(self, key: DeviceKey, filter_: str, options: int) -> int:
        """Subscribe one device that is here, or durable: SUBACK's code; 0x80 where there is no such device."""
        session = self._server.sessions.get(key)
        if session is not None and not session.durable:
            return await self._api.readers.subscribe_session(session, filter_, options, None)
        with suppress(NoDevice):
            return await self._api.readers.subscribe(key, filter_, options, None)
        return ReasonCode.UNSPECIFIED_ERROR

    def filters(self, key: DeviceKey) -> list[str]:
        """The filters of a device that is connected here."""
        session = self._server.sessions.get(key)
        return [] if session is None else list(session.subscriptions)

    async def _durable(self, user: str) -> list[DeviceKey]:
        stored = {device.key for device in await self._server.storage.devices_of(user)}
        here = {session.key for session in self._server.sessions.of(user) if session.durable}
        return sorted(stored | here)

    async def _clean(self, user: str, filter_: str, options: int) -> None:
        for session in self._server.sessions.of(user):
            if not session.durable and not session.ended:
                await self._clean_one(session, filter_, options)

    async def _clean_one(self, session: Session, filter_: str, options: int) -> None:
        if options >= 0:
            await self._api.readers.subscribe_session(session, filter_, options, None)
            return
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._server.subscriptions.unsubscribe(session, [filter_], lambda: True, done.set_result)
        await done

    def joined(self) -> None:
        """The node has joined a cluster: take what others ask for its clean sessions."""

        def received(body: Mapping[str, Any]) -> None:
            task = asyncio.create_task(self._clean(body["user"], body["filter"], body["options"]), name="follow")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        assert self._server.cluster is not None
        self._server.cluster.answer_all(_KIND, received)

    async def close(self) -> None:
        """Give up what is under way."""
        await end(list(self._tasks))
