"""Conversations in storage: read one by one, and changed under an expected revision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from broker.amqtt import Services, Undecided
from plugins.conversations.model import ABOUT, BETWEEN, MEMBERS, MINE, THE, WORK, About, Membership, Outline
from plugins.timelines import Conflict, Unprocessable
from plugins.timelines.errors import Away
from storage.errors import RowChanged, StorageError
from storage.records import DropRow, Operation, PutRow, Row

V = TypeVar("V")
KNOWN = 100_000
"""Memberships remembered, some 30 MB at most."""


class Store:
    """``timeout``: seconds that a write may wait for storage."""

    def __init__(self, server: Services, timeout: float) -> None:
        self._server = server
        self._timeout = timeout

    async def about(self, topic: str) -> About | None:
        """What a topic's conversation is; None where there is none."""
        row = await self._server.storage.row(ABOUT, topic, THE)
        return None if row is None else About.decode(topic, row.value, row.revision)

    async def member(self, topic: str, user: str) -> Membership | None:
        """A user's membership, as it is now."""
        row = await self._server.storage.row(MEMBERS, topic, user)
        return None if row is None else Membership.decode(row.value, row.revision)

    async def members(self, topic: str, after: str, limit: int) -> list[tuple[str, Membership]]:
        """A page of the members, by user key."""
        page = await self._server.storage.rows(MEMBERS, topic, after=after, limit=limit)
        return [(row.key, Membership.decode(row.value, row.revision)) for row in page]

    async def count(self, part: str, most: int, table: str = MEMBERS) -> int:
        """How many members (or other rows) there are, counted no further than to ``most``."""
        counted, after = 0, ""
        while counted < most and (page := await self._server.storage.rows(table, part, after=after, limit=most - counted)):
            counted += len(page)
            after = page[-1].key
        return counted

    async def of(self, user: str, most: int) -> list[str]:
        """The topics of a user's conversations, by name, up to ``most``."""
        return [row.key for row in await self._mine(user, most)]

    async def outlines(self, user: str, most: int) -> list[tuple[str, Outline | None]]:
        """The same with what they are sorted by; None where nothing is kept of that."""
        return [(row.key, Outline.decode(row.value)) for row in await self._mine(user, most)]

    async def _mine(self, user: str, most: int) -> list[Row]:
        found: list[Row] = []
        while len(found) < most:
            after = found[-1].key if found else ""
            page = await self._server.storage.rows(MINE, user, after=after, limit=min(1000, most - len(found)))
            if not page:
                break
            found += page
        return found

    async def page(self, table: str, part: str, prefix: str, limit: int) -> list[Row]:
        """The first rows of a part whose keys begin with ``prefix``."""
        return await self._server.storage.rows(table, part, prefix=prefix, limit=limit)

    async def work(self, after: str) -> list[Row]:
        """A page of the changes that are not done on all devices."""
        return await self._server.storage.rows(WORK, "", after=after)

    async def write(self, operations: Sequence[Operation]) -> None:
        """Commit. Raises `Conflict` where something is not as it was expected, and `Away`."""
        try:
            await self._server.commit(list(operations), self._timeout)
        except Undecided as error:
            raise Away("storage does not answer; what was asked may still happen", retry_after=5) from error
        except StorageError as error:
            raise Away(f"nothing was changed: {error}", retry_after=5) from error
        for operation in operations:
            if isinstance(operation.error, RowChanged):
                raise Conflict("somebody else has just changed this: look, and ask again") from operation.error
            if operation.error is not None:
                raise Unprocessable(str(operation.error))


def put_about(about: About) -> PutRow:
    """What stores a conversation, unless somebody else has changed it since it was read."""
    return PutRow(ABOUT, about.topic, THE, about.encode(), about.revision)


def put_member(topic: str, user: str, member: Membership) -> list[Operation]:
    """The same of a membership."""
    return [PutRow(MEMBERS, topic, user, member.encode(), member.revision), PutRow(MINE, user, topic, member.outline.encode())]


def drop_member(topic: str, user: str, revision: int) -> list[Operation]:
    """What ends a membership."""
    return [DropRow(MEMBERS, topic, user, revision), DropRow(MINE, user, topic)]


def work_key(topic: str, user: str) -> str:
    """Which row says that a membership is being changed."""
    return f"{topic}{BETWEEN}{user}"


class Known(Generic[V]):
    """What was read of storage last, by user and topic, bounded. What was read before a change is not remembered. No I/O."""

    def __init__(self, limit: int = KNOWN) -> None:
        self._limit = limit
        self._found: OrderedDict[tuple[str, str], V] = OrderedDict()
        self.changes = 0
        """Counts what was forgotten: who read before a change may have read what was."""

    def get(self, key: tuple[str, str]) -> V | None:
        found = self._found.get(key)
        if found is not None and len(self._found) > self._limit // 2:  # only one that fills needs to know what was used last
            self._found.move_to_end(key)
        return found

    def note(self, key: tuple[str, str], value: V, changes: int) -> None:
        """Remember what was read when ``changes`` was this."""
        if changes == self.changes:
            self._found[key] = value
            if len(self._found) > self._limit:
                self._found.popitem(last=False)

    def forget(self, key: tuple[str, str]) -> None:
        """It is another one now."""
        self.changes += 1
        self._found.pop(key, None)
