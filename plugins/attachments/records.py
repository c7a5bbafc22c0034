"""Attachments as rows. One table has the records, one says what each user has, one which message has what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

from broker.amqtt import Services
from plugins.attachments.record import Record
from plugins.timelines.messages import hex_id
from storage.records import Append, DropRow, Operation, PutRow

RECORDS, USERS, MESSAGES = "attachments", "attachments.users", "attachments.messages"
_PAGE = 500
_PARTS = 256
TIMEOUT = 10.0
"""Seconds that a commit may take."""


class Has(NamedTuple):
    """What a user has: how many attachments, how many of them are not complete, and their bytes."""

    files: int
    unfinished: int
    bytes: int


class Linked(NamedTuple):
    """Which message has an attachment: its id as hexadecimal digits."""

    topic: str
    message: str
    id: str


class Records:
    """Reads and writes them. Raises as `Services.commit`."""

    def __init__(self, server: Services) -> None:
        self._server = server

    async def find(self, id: str) -> Record | None:
        """The record of an id."""
        row = await self._server.storage.row(RECORDS, _part(id), id)
        return None if row is None else Record.decoded(row.value, row.revision)

    async def every(self) -> AsyncIterator[Record]:
        """All of them, in no order that means anything."""
        async for part in _parts(self._server, RECORDS):
            after = ""
            while page := await self._server.storage.rows(RECORDS, part, after=after, limit=_PAGE):
                for row in page:
                    yield Record.decoded(row.value, row.revision)
                after = page[-1].key

    async def of_user(self, user: str, most: int) -> Has:
        """What a user has. No more than about ``most`` are counted."""
        count = unfinished = size = 0
        after = ""
        while count < most and (page := await self._server.storage.rows(USERS, user, after=after, limit=_PAGE)):
            for row in page:
                fields = json.loads(row.value)
                count += 1
                size += fields["length"]
                unfinished += not fields["complete"]
            after = page[-1].key
        return Has(count, unfinished, size)

    async def ids_of_user(self, user: str, after: str, limit: int) -> list[str]:
        """A page of the ids of what a user has."""
        return [row.key for row in await self._server.storage.rows(USERS, user, after=after, limit=limit)]

    async def forget(self, user: str, id: str) -> None:
        """Forget that a user has something that is not there."""
        await self._server.commit([DropRow(USERS, user, id)], TIMEOUT)

    async def page(self, after: str, limit: int) -> list[Record]:
        """Some of all records, by id; none at the end."""
        for part in range(int(_part(after) or "0", 16), _PARTS):
            rows = await self._server.storage.rows(RECORDS, f"{part:02x}", after=after, limit=limit)
            if rows:
                return [Record.decoded(row.value, row.revision) for row in rows]
        return []

    async def linked(self) -> AsyncIterator[list[Linked]]:
        """Which message has what, some at a time."""
        async for topic in _parts(self._server, MESSAGES):
            after = ""
            while page := await self._server.storage.rows(MESSAGES, topic, after=after, limit=_PAGE):
                yield [Linked(topic, *row.key.split(":")) for row in page]
                after = page[-1].key

    async def of_message(self, topic: str, message: str) -> list[Linked]:
        """What one message has."""
        page = await self._server.storage.rows(MESSAGES, topic, prefix=f"{message}:", limit=_PAGE)
        return [Linked(topic, *row.key.split(":")) for row in page]

    async def save(self, record: Record, more: list[Operation] | None = None) -> bool:
        """Store a record, where the row is still the one that it was read from; whether it was. It then has its revision."""
        put = PutRow(RECORDS, _part(record.id), record.id, record.encoded(), record.revision)
        done = b'{"length":%d,"complete":%s}' % (record.length, b"true" if record.complete else b"false")
        operations: list[Operation] = [put]
        if not record.revision or record.complete:
            operations.append(PutRow(USERS, record.user, record.id, done))
        await self._server.commit(operations + (more or []), TIMEOUT)
        if put.error is not None:
            return False
        record.revision = put.revision
        return True

    async def expire(self, record: Record) -> bool:
        """Have it be no message's, and nobody's to read or change, where the row is still the one that was read; whether it
        was."""
        expired = replace(record, message="", expires=0)
        put = PutRow(RECORDS, _part(record.id), record.id, expired.encoded(), record.revision)
        await self._server.commit([put], TIMEOUT)
        return put.error is None

    async def drop(self, record: Record) -> None:
        """Forget a record that has expired, and what points to it."""
        rows: list[Operation] = [DropRow(RECORDS, _part(record.id), record.id), DropRow(USERS, record.user, record.id)]
        if record.message:
            rows.append(DropRow(MESSAGES, record.topic, f"{record.message}:{record.id}"))
        await self._server.commit(rows, TIMEOUT)

    async def unlink(self, one: Linked) -> None:
        """Forget that a message has an attachment that is not there."""
        await self._server.commit([DropRow(MESSAGES, one.topic, f"{one.message}:{one.id}")], TIMEOUT)


def link(record: Record, of: Append) -> list[Operation]:
    """What stores that a message has an attachment, as its record says by now, for the message's own commit."""
    record = record.copy()
    pointer = PutRow.naming(of, MESSAGES, record.topic, lambda id: (f"{hex_id(id)}:{record.id}", b"{}"))

    def named(id: int) -> tuple[str, bytes]:
        return record.id, replace(record, message=hex_id(id)).encoded()

    return [PutRow.naming(of, RECORDS, _part(record.id), named, record.revision), pointer]


async def _parts(server: Services, table: str) -> AsyncIterator[str]:
    async for page in server.storage.parts(table):
        for part in page:
            yield part


def _part(id: str) -> str:
    """Some parts, so that they are spread and can all be found."""
    return id[:2]
