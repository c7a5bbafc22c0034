"""The reads of `SqliteStorage`, on threads of their own.

Over 300 lines: each method of the interface is here, and hands its work to who does it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from storage.errors import StorageUnusable
from storage.interface import Due, Membership, Newest, Pointer, Subscribed, TailPage, TextPage, Volume, page_of_ids
from storage.records import DataEpoch, Device, DeviceKey, InboxEntry, JobState, Message, Row, Setting, Token
from storage.sqlite import device_index, pages, participation, queries, recipients, retention, rows
from storage.sqlite.connection import REOPEN, connect_reader, primary_code, translate
from storage.sqlite.database_file import refuse_empty
from storage.sqlite.gathering import Gathering
from storage.sqlite.schema import check_version
from storage.sqlite.threads import Worker

PAGE = 500
LARGE_PAGE = 5000
"""Of rows that are short."""
READERS = 2

T = TypeVar("T")


class Reading:
    """Queries beside a writer. Each thread has a connection, and holds no transaction between two queries."""

    def __init__(self, path: Path, busy_timeout: float, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._busy_timeout = busy_timeout
        self._read_worker: Worker | None = None
        self._readers = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._devices = Gathering(self._look_up_devices)

    async def _start_reading(self) -> None:
        refuse_empty(self._path)
        self._read_worker = Worker("tideline-read", READERS)
        await self._read(lambda connection: check_version(connection, str(self._path)))

    async def _stop_reading(self) -> None:
        if self._read_worker is not None:
            await self._read_worker.stop()
            self._read_worker = None
        for connection in self._reading:
            connection.close()
        self._reading.clear()

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._read_worker is None:
            raise StorageUnusable(f"{self._path} is not open")
        return await self._read_worker.run(partial(self._run_query, query))

    def _run_query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        try:
            if connection is None:
                connection = connect_reader(self._path, self._busy_timeout)
                self._readers.connection = connection
                self._reading.append(connection)
            return query(connection)
        except sqlite3.Error as error:
            if connection is not None and primary_code(error) in REOPEN:
                self._readers.connection = None
                self._reading.remove(connection)
                connection.close()
            raise translate(error, str(self._path)) from error

    async def inbox_head(self, user: str) -> int:
        """See `storage.interface.InboxReader`."""
        return await self._read(lambda connection: queries.inbox_head(connection, user))

    async def inbox_bounds(self, user: str) -> tuple[int, int]:
        """See `storage.interface.InboxReader`."""
        return await self._read(lambda connection: queries.inbox_bounds(connection, user))

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        """See `storage.interface.InboxReader`."""
        return await self._read(lambda connection: pages.inbox(connection, user, after, limit, max_bytes))

    async def conversation_bounds(self, topic: str) -> tuple[int, int]:
        """See `storage.interface.ConversationReader`."""
        return await self._read(lambda connection: queries.conversation_bounds(connection, topic))

    async def read_conversation(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int = 0,
        limit: int = 100,
        newest_first: bool = False,
        max_bytes: int = 1 << 20,
    ) -> list[Message]:
        """See `storage.interface.ConversationReader`."""
        return await self._read(
            lambda connection: pages.conversation(connection, topic, after, before, limit, newest_first, max_bytes)
        )

    async def newest(self, topics: Sequence[str]) -> list[Newest]:
        """See `storage.interface.ConversationReader`."""
        return await self._read(lambda connection: queries.newest(connection, topics))

    async def sequence_at(self, topic: str, time: int) -> int:
        """See `storage.interface.ConversationReader`."""
        return await self._read(lambda connection: queries.sequence_at(connection, topic, time))

    async def read_message(self, message_id: int) -> Message | None:
        """See `storage.interface.ConversationReader`."""
        return await self._read(lambda connection: pages.message_by_id(connection, message_id))

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        """See `storage.interface.ConversationReader`."""
        return await self._read(lambda connection: pages.messages_by_id(connection, ids))

    async def last_id(self) -> int:
        """See `storage.interface.Tail`."""
        return await self._read(queries.last_id)

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.Tail`."""
        read = pages.tail_by_rows if self._read_only else pages.tail
        return await self._read(lambda connection: read(connection, after_id, limit, max_bytes))

    async def tails(self) -> dict[int, int]:
        """See `storage.interface.Tails`."""
        return {0: await self.last_id()}

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        """See `storage.interface.Tails`. All that is stored is this one writer's."""
        page = await self.read_tail(after, limit, max_bytes)
        return page_of_ids([message for message in page if message.id <= through], through)

    async def read_texts_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TextPage:
        """See `storage.interface.TextTails`."""
        by_rows = self._read_only
        return await self._read(lambda connection: pages.texts(connection, after, through, limit, max_bytes, by_rows=by_rows))

    async def read_pointers(self, user: str, after: int, limit: int = 5000) -> list[Pointer]:
        """See `storage.interface.Pruner`."""
        return await self._read(lambda connection: retention.pointers(connection, user, after, limit))

    async def device(self, key: DeviceKey) -> Device | None:
        """See `storage.interface.State`."""
        return await self._devices.get(key)

    async def _look_up_devices(self, keys: Sequence[DeviceKey]) -> dict[DeviceKey, Device]:
        return await self._read(lambda connection: queries.devices_of_keys(connection, keys))

    async def devices(self) -> AsyncIterator[Device]:
        """See `storage.interface.State`."""
        after = 0
        while page := await self._read(partial(queries.devices, after=after, limit=PAGE)):
            for _, device in page:
                yield device
            after = page[-1][0]

    async def device_count(self) -> int:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(device_index.count)

    async def subscribed(self) -> AsyncIterator[list[Subscribed]]:
        """See `storage.interface.DeviceIndex`."""
        after = 0
        while True:
            after, page = await self._read(partial(device_index.subscribed, after=after, limit=LARGE_PAGE))
            if not after:
                return
            yield page

    async def undated(self, now: int) -> AsyncIterator[list[Device]]:
        """See `storage.interface.DeviceIndex`."""
        after = 0
        while page := await self._read(partial(device_index.undated, after=after, now=now, limit=PAGE)):
            yield [device for _, device in page]
            after = page[-1][0]

    async def due(self, now: int, limit: int = 500) -> Due:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(partial(device_index.due, now=now, limit=limit))

    async def devices_of(self, user: str, after: str = "", limit: int = 0) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(partial(device_index.devices_of, user=user, after=after, limit=limit))

    async def devices_from(self, key: DeviceKey, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(partial(device_index.devices_from, key=key, limit=limit))

    async def devices_named(self, client_id: str, user: str, limit: int) -> list[Device]:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(partial(device_index.devices_named, client_id=client_id, user=user, limit=limit))

    async def lowest_offset(self, user: str) -> int | None:
        """See `storage.interface.DeviceIndex`."""
        return await self._read(partial(device_index.lowest_offset, user=user))

    async def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]:
        """See `storage.interface.DeviceIndex`."""
        after = ""
        while page := await self._read(partial(device_index.lowest_offsets, after=after, limit=LARGE_PAGE)):
            yield page
            after = page[-1][0]

    async def retained_range(self, prefix: str, after: str, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.RetainedReader`."""
        return await self._read(lambda connection: pages.retained(connection, prefix, after, limit, max_bytes))

    async def retained_count(self) -> int:
        """See `storage.interface.RetainedReader`."""
        return await self._read(queries.retained_count)

    async def retained_expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        """See `storage.interface.RetainedReader`."""
        return await self._read(lambda connection: queries.retained_expired(connection, now, limit))

    async def conversations(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        while page := await self._read(partial(queries.conversations, after=after, prefix=prefix, limit=PAGE)):
            for topic, first, last in page:
                if not topic.startswith(prefix):
                    return
                if last:
                    yield topic, first, last
            after = page[-1][0]

    async def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        """See `storage.interface.Catalogue`."""
        after = ""
        while page := await self._read(partial(queries.inboxes, after=after, limit=PAGE)):
            for inbox in page:
                if inbox[2]:
                    yield inbox
            after = page[-1][0]

    async def check(self, full: bool = False) -> list[str]:
        """What is wrong with the file, nothing being an empty list; beside a running broker too.

        Checks the structure; if ``full``, also the indexes, and that no timeline has a gap. Takes seconds per gigabyte, and
        keeps the log from being emptied meanwhile.
        """
        return await self._read(lambda connection: queries.problems(connection, full))

    # --- Participation and Tokens ----------------------------------------------------------------------------------

    async def memberships(self, user: str, after: str = "", limit: int = 100) -> list[Membership]:
        """See `storage.interface.Participation`."""
        return await self._read(lambda connection: participation.memberships(connection, user, after, limit))

    async def takes_part(self, user: str, topic: str) -> bool:
        """See `storage.interface.Participation`."""
        return await self._read(lambda connection: participation.takes_part(connection, user, topic))

    async def read_position(self, user: str, topic: str) -> int:
        """See `storage.interface.Participation`."""
        return await self._read(lambda connection: participation.read_position(connection, user, topic))

    async def expired_between(self, topic: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return await self._read(lambda connection: participation.expired_between(connection, topic, after, now))

    async def sent_between(self, topic: str, user: str, after: int, now: int) -> int:
        """See `storage.interface.Participation`."""
        return await self._read(lambda connection: participation.sent_between(connection, topic, user, after, now))

    async def participants(self, topic: str, after: str = "", limit: int = 1000) -> list[str]:
        """See `storage.interface.Recipients`."""
        return await self._read(lambda connection: recipients.participants(connection, topic, after, limit))

    async def entries_of(self, message: Message, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        return await self._read(lambda connection: recipients.entries_of(connection, message.id, users))

    async def read_positions(self, topic: str, users: Sequence[str]) -> list[int]:
        """See `storage.interface.Recipients`."""
        return await self._read(lambda connection: recipients.read_positions(connection, topic, users))

    async def token(self, digest: str) -> Token | None:
        """See `storage.interface.Tokens`."""
        return await self._read(lambda connection: participation.token(connection, digest))

    async def tokens(self, user: str) -> list[Token]:
        """See `storage.interface.Tokens`."""
        return await self._read(lambda connection: participation.tokens(connection, user))

    # --- Jobs and the epoch --------------------------------------------------------------------------------------------

    async def jobs(self) -> list[JobState]:
        """See `storage.interface.Jobs`."""
        return await self._read(participation.jobs)

    # --- Settings --------------------------------------------------------------------------------------------------

    async def settings(self, kind: str) -> list[Setting]:
        """See `storage.interface.Settings`."""
        return await self._read(lambda connection: participation.settings(connection, kind))

    # --- Rows ------------------------------------------------------------------------------------------------------

    async def row(self, table: str, part: str, key: str) -> Row | None:
        """See `storage.interface.Rows`."""
        return await self._read(lambda connection: rows.row(connection, table, part, key))

    async def rows(
        self, table: str, part: str, *, after: str = "", prefix: str = "", limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[Row]:
        """See `storage.interface.Rows`."""
        return await self._read(lambda connection: rows.rows(connection, table, part, after, prefix, limit, max_bytes))

    async def parts(self, table: str) -> AsyncIterator[list[str]]:
        """See `storage.interface.Rows`."""
        after: str | None = None
        while page := await self._read(partial(rows.parts, table=table, after=after)):
            yield page
            after = page[-1]

    async def volume(self) -> Volume:
        """See `storage.interface.Measured`."""
        return await self._read(partial(queries.volume, path=self._path))

    async def data_epoch(self) -> DataEpoch:
        """See `storage.interface.Epochs`."""
        return await self._read(queries.data_epoch)
