"""Removes what is kept of a user, or of a conversation, that is erased: see `plugins.recall.records.RecordEraser`."""

from __future__ import annotations

from plugins.conversations.changes import Memberships
from plugins.conversations.model import ABOUT, BETWEEN, MENTIONS, MINE, THE, VALUES
from plugins.conversations.values import Values
from plugins.recall.erasure import USER
from storage.records import DropRow

PAGE = 100


class Erasing:
    """Each call removes a page, so the next one begins at the beginning."""

    def __init__(self, memberships: Memberships, values: Values) -> None:
        self._memberships = memberships
        self._store = memberships.store
        self._values = values

    async def __call__(self, what: str, name: str, after: str) -> str | None:
        return "" if await (self._user(name) if what == USER else self._conversation(name)) else None

    async def _user(self, user: str) -> bool:
        """Values, mentions and memberships; a conversation whose last owner goes has none, until the operator names one."""
        if await self._dropped(VALUES, user) or await self._dropped(MENTIONS, user):
            return True
        topics = await self._store.of(user, PAGE)
        for topic in topics:
            if self._values.is_one(topic):
                await self._store.write([DropRow(MINE, user, topic)])
                await self._memberships.tell(topic, user)
            else:
                await self._memberships.change(topic, user, None, erased=True)
        return bool(topics)

    async def _conversation(self, topic: str) -> bool:
        """Mentions of its members, and memberships; then what it is called."""
        members = await self._store.members(topic, "", PAGE)
        for user, _ in members:
            while await self._dropped(MENTIONS, user, f"{topic}{BETWEEN}"):
                pass
            await self._memberships.change(topic, user, None, erased=True)
        if not members:
            await self._store.write([DropRow(ABOUT, topic, THE)])
        return bool(members)

    async def _dropped(self, table: str, part: str, prefix: str = "") -> bool:
        """Drop a page of rows; whether there was one."""
        rows = await self._store.page(table, part, prefix, PAGE)
        if rows:
            await self._store.write([DropRow(table, part, row.key) for row in rows])
        return bool(rows)
