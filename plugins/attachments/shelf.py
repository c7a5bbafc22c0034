"""What there is of attachments, for callers over HTTP and `$sync/request` and for plugins: which, how far, and their end.

The bytes come and go over HTTP only.
"""

from __future__ import annotations

from typing import Any

from broker.amqtt import Services
from broker.hooks import Request
from plugins.attachments.record import Record, is_id
from plugins.attachments.records import Records
from plugins.attachments.uploads import Uploads
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind
from plugins.timelines import Timelines, Who
from plugins.timelines.errors import NotFound


class Shelf:
    """Tells of them under the rules of who may see what."""

    def __init__(self, server: Services, records: Records, uploads: Uploads) -> None:
        self._server = server
        self._records = records
        self._uploads = uploads

    async def readable(self, who: Who, id: str) -> Record:
        """A complete one, for who may read its conversation, or has uploaded it. Raises `NotFound`, the same for what is not
        there and what may not be read."""
        record = await self._records.find(id) if is_id(id) else None
        if record is not None and record.complete:
            own = who.operator or who.user == record.user
            if await (self._may_still(who, record) if own else self._may_read(who, record)):
                return record
        raise NotFound(f"attachment {id[:40]!r}: there is none, or you may not read it")

    async def _may_read(self, who: Who, record: Record) -> bool:
        """As the message that has it."""
        try:
            message = await Timelines(self._server).message(who, record.message)
        except NotFound:
            return False
        return not message.recalled

    async def _may_still(self, who: Who, record: Record) -> bool:
        """Its uploader: until it expires, or its message is gone, or is among others who have removed the uploader."""
        if not record.message:
            return record.expires > self._server.now()
        message = await self._server.storage.read_message(int(record.message, 16))
        if message is None or message.expired(self._server.now()) or message.recalled:
            return False
        return not await Timelines(self._server).barred(who, message)

    async def about(self, who: Who, id: str) -> dict[str, Any]:
        """One that the caller may read, or uploads. Raises `NotFound`."""
        try:
            return shown(await self.readable(who, id))
        except NotFound:
            record = await self._records.find(id) if is_id(id) else None
            if record is None or record.complete:
                raise
            return shown(await self._uploads.own(who, id))

    async def page(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """What a user has uploaded, or uploads, by id; but for what is in conversations that it was removed from."""
        ids = await self._records.ids_of_user(who.user, after, limit)
        found = [record for id in ids if (record := await self._records.find(id)) is not None]
        return {
            "attachments": [shown(record) for record in found if not await self._left(who, record)],
            "next": ids[-1] if len(ids) == limit else None,
        }

    async def _left(self, who: Who, record: Record) -> bool:
        if not record.message or who.operator:
            return False
        message = await self._server.storage.read_message(int(record.message, 16))
        return message is not None and await Timelines(self._server).barred(who, message)

    async def remove(self, who: Who, id: str) -> None:
        """Remove one of the caller's that no message has. Raises `NotFound` and `Conflict`."""
        await self._uploads.remove(await self._uploads.own(who, id))


def shown(record: Record) -> dict[str, Any]:
    """An attachment as it is told of."""
    return {
        "id": record.id,
        "topic": record.topic,
        "user": record.user,
        "filename": record.name,
        "filetype": record.type,
        "length": record.length,
        "offset": record.offset,
        "created": record.created,
        "expires": None if record.message else record.expires,
        "message": record.message or None,
    }


def kinds(shelf: Shelf) -> dict[str, Kind]:
    """What may be asked by a request."""

    async def attachments(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await shelf.page(who, asked.text("after", ""), asked.limit(100))

    async def attachment(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return {"attachment": await shelf.about(who, asked.text("attachment"))}

    async def remove(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        id = asked.text("attachment")
        await shelf.remove(who, id)
        return {"removed": id}

    return {
        "attachments": Kind(attachments, ("after", "limit")),
        "attachment": Kind(attachment, ("attachment",)),
        "remove-attachment": Kind(remove, ("attachment",)),
    }
