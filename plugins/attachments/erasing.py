"""Removes uploads that no message has, where a user or a conversation is erased: see `plugins.recall.records.RecordEraser`.

Those that a message has go when the erasure recalls it; what was missed then is removed here, too.
"""

from __future__ import annotations

from broker.amqtt import Services
from plugins.attachments.pieces import Pieces, PiecesAway
from plugins.attachments.record import Record
from plugins.attachments.records import Records
from plugins.attachments.removal import remove
from plugins.recall.erasure import USER
from plugins.timelines import Conflict
from plugins.timelines.errors import Away

PAGE = 100


class Erasing:
    """See the module."""

    def __init__(self, server: Services, records: Records, pieces: Pieces) -> None:
        self._server = server
        self._records = records
        self._pieces = pieces

    async def __call__(self, what: str, name: str, after: str) -> str | None:
        if what == USER:
            ids = await self._records.ids_of_user(name, after, PAGE)
            for id in ids:
                await self._remove(id, await self._records.find(id), name)
            return ids[-1] if ids else None
        page = await self._records.page(after, PAGE)
        for record in page:
            if record.topic == name:
                await self._remove(record.id, record, record.user)
        return page[-1].id if page else None

    async def _remove(self, id: str, record: Record | None, user: str) -> None:
        if record is None:
            await self._records.forget(user, id)  # what a killed node left
        elif not await self._wanted(record):
            try:
                removed = await remove(self._records, self._pieces, record)
                if not removed and await self._records.find(id) is not None:
                    raise Conflict(f"attachment {id} has changed meanwhile")
            except PiecesAway as error:
                raise Away(str(error)) from error

    async def _wanted(self, record: Record) -> bool:
        if not record.message:
            return False
        message = await self._server.storage.read_message(int(record.message, 16))
        return message is not None and not message.recalled
