"""Which message has which attachment: a message names them by user properties, and has them from its own commit on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence

from broker.amqtt import Services, Undecided
from broker.hooks import Group, Refusal
from broker.packets import Property
from broker.publication import Publication
from plugins.attachments.pieces import Pieces, PiecesAway
from plugins.attachments.record import Record, is_id
from plugins.attachments.records import Linked, Records, link
from plugins.attachments.removal import remove
from plugins.timelines.messages import hex_id, message_properties
from storage.errors import StorageError
from storage.records import Append, Message

log = logging.getLogger("tideline.attachments")

ATTACHMENT = "attachment"
"""The user property that has an attachment's id."""
_BYTES = ATTACHMENT.encode()
_MOST = 20
"""Of one message."""
_ALMOST = 60_000
"""Milliseconds before an attachment expires, within which no message gets it: the job may be about to remove it."""


class Links:
    """Ties attachments to messages, and removes them with these."""

    def __init__(self, server: Services, records: Records, pieces: Pieces, kept: float) -> None:
        self._server = server
        self._records = records
        self._pieces = pieces
        self._kept = int(kept * 1000)

    # --- when a message comes --------------------------------------------------------------------------------------------

    def before(self, group: Group) -> Awaitable[None] | None:
        """Refuse messages that name what they may not have; have the others' attachments tied in the messages' own commit."""
        naming = [append for append in group.with_properties if append.error is None and named(append.message)]
        return self._tied(naming, group) if naming else None

    async def _tied(self, naming: Sequence[Append], group: Group) -> None:
        for append, found in zip(naming, await asyncio.gather(*map(self._checked, naming)), strict=True):
            if isinstance(found, Refusal):
                append.error = found
                continue
            for record in found if append.store else ():
                record.topic, record.message, record.linked = (
                    append.message.topic,
                    hex_id(append.message.id),
                    self._server.now(),
                )
                group.operations += link(record, append)

    async def _checked(self, append: Append) -> list[Record] | Refusal:
        """The attachments that a message is to have; those that another one has are left with that."""
        ids = named(append.message)
        if len(ids) > _MOST:
            return Refusal(f"{len(ids)} attachments: a message has at most {_MOST}")
        found = [await self._records.find(id) if is_id(id) else None for id in ids]
        user = append.message.user
        if user.startswith("b/") and all(record is None or record.user != user for record in found):
            return []  # a copy, by a rule or a bridge: they stay with the message that it is of
        wrong = next((text for id, one in zip(ids, found, strict=True) if (text := self._wrong(append, id, one))), "")
        if wrong:
            return Refusal(wrong)
        return [record for record in found if record is not None and not record.message]

    def _wrong(self, append: Append, id: str, record: Record | None) -> str:
        message = append.message
        topics = {message.topic, append.sent_to or message.topic} if isinstance(append, Publication) else {message.topic}
        if record is None or record.user != message.user:
            return f"attachment {id[:40]!r}: there is none of yours"
        if record.topic not in topics:
            return f"attachment {id!r} is for {record.topic[:80]!r}, not for {message.topic[:80]!r}"
        if not record.complete:
            return f"attachment {id!r} is not complete: {record.offset} of {record.length} bytes have come"
        if not record.message and record.expires - self._server.now() < _ALMOST:
            return f"attachment {id!r} has expired: upload it again"
        return ""

    def after(self, group: Group) -> Awaitable[None] | None:
        """Set right what turned out another way: a message that was a repeat, or was refused, or has another node's id; and
        remove what was recalled. Who recalls something names it in its properties."""
        concerned = [append for append in group.with_properties if append.recalls or named(append.message)]
        return self._set_right(concerned) if concerned else None

    async def _set_right(self, concerned: Sequence[Append]) -> None:
        try:
            for append in concerned:
                for id in named(append.message):
                    await self._settle(append, id)
                for recalled in append.recalls:
                    if append.error is None:
                        await self.removed(append.message.topic, [recalled])
        except (StorageError, Undecided) as error:
            log.debug("the job attachments does it: %s", error)

    async def _settle(self, append: Append, id: str) -> None:
        message, record = append.message, await self._records.find(id) if is_id(id) else None
        if record is None or not record.message or record.user != message.user:
            return
        mine = record.message == hex_id(message.id)
        if append.error is not None or append.original is not None:
            if mine:
                was = Linked(record.topic, record.message, id)
                record.message, record.linked, record.expires = "", 0, self._server.now() + self._kept
                if await self._records.save(record):
                    await self._records.unlink(was)
        elif not mine and await self._server.storage.read_message(int(record.message, 16)) is None:
            record.message, record.topic = hex_id(message.id), message.topic
            await self._records.save(record, link(record, append)[1:])

    # --- when a message goes ---------------------------------------------------------------------------------------------

    async def removed(self, topic: str, ids: Sequence[int]) -> int:
        """Messages are gone: remove their attachments; how many."""
        count = 0
        for id in ids:
            for one in await self._records.of_message(topic, hex_id(id)):
                count += await self.drop(one)
        return count

    async def drop(self, one: Linked) -> bool:
        """Remove what a message had that is gone; whether it was there."""
        record = await self._records.find(one.id)
        if record is None or record.message != one.message:
            await self._records.unlink(one)
            return False
        return await self.remove(record)

    async def remove(self, record: Record) -> bool:
        """Remove an attachment, where the record is still the one that was read; whether it is gone."""
        try:
            return await remove(self._records, self._pieces, record)
        except PiecesAway as error:
            log.debug("the job attachments removes it later: %s", error)
            return False


def named(message: Message) -> list[str]:
    """The attachments that a message names."""
    if _BYTES not in message.properties:
        return []
    pairs = message_properties(message).get(Property.USER_PROPERTY, ())
    return list(dict.fromkeys(value for name, value in pairs if name == ATTACHMENT))
