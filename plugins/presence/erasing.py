"""Removes what is known of who a user was and when, of one that is erased: see `plugins.recall.records.RecordEraser`."""

from __future__ import annotations

from broker.amqtt import Services
from plugins.presence.presence import TIMEOUT, message_of
from plugins.presence.record import DEVICES, OF, Device, key_of, topic_of
from plugins.recall.erasure import USER
from storage.records import DropRow, Operation

_PAGE = 200


class Erasing:
    """A device that goes later finds that its row is no longer there, and writes none."""

    def __init__(self, server: Services) -> None:
        self._server = server

    async def __call__(self, what: str, name: str, after: str) -> str | None:
        if what != USER:
            return None
        if rows := await self._server.storage.rows(DEVICES, name, limit=_PAGE):
            drops: list[Operation] = []
            for row in rows:
                run = Device.decoded(row.value).run
                drops += [DropRow(DEVICES, name, row.key), DropRow(OF, run, key_of(name, row.key))]
            await self._server.commit(drops, TIMEOUT)
            return ""
        await self._clear(name)
        return None

    async def _clear(self, user: str) -> None:
        """End what is retained of a user, where something is."""
        topic = topic_of(user)
        if any(kept.topic == topic for kept in await self._server.storage.retained_range(topic, "", 1)):
            for outcome in await self._server.append_all_within([message_of(user, b"")], TIMEOUT):
                if isinstance(outcome, BaseException):
                    raise outcome
