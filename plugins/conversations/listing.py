"""A user's own conversations: by last activity, with the last message, and how much of it is unread."""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple

from broker.packets import Property
from plugins.conversations.model import BETWEEN, MENTIONS, Membership
from plugins.conversations.service import Conversations
from plugins.timelines import Unprocessable, Who
from plugins.timelines.messages import MENTIONED, message_properties, parse_id, rendered
from storage.records import DropRow, Message, PutRow

_AT_ONCE = 32
"""Conversations that are looked at together."""
OWN_COUNTED = 10_000
"""Messages past a read position among which one's own are counted. Of more unread ones, own ones count as well."""
MOST_MENTIONS = 100
"""Mentions of a user in one conversation that are counted."""
_NAMED = 50
"""Users that one message mentions at most; the others are not told."""
_CURSOR = re.compile(r"(\d{1,18})\.(.+)", re.DOTALL)


class _One(NamedTuple):
    time: int
    topic: str
    member: Membership
    last: Message | None


class Listing:
    """Lists the conversations of users, ``most`` of each."""

    def __init__(self, conversations: Conversations, most: int) -> None:
        self._conversations = conversations
        self._server = conversations.server
        self._most = most

    async def page(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """A page, what was active last first; ``after`` is ``next`` of the page before."""
        behind = _place(after) if after else None
        topics = await self._conversations.members.store.of(who.user, self._most + 1)  # with the user's own
        found: list[_One] = []
        for start in range(0, len(topics), _AT_ONCE):
            some = topics[start : start + _AT_ONCE]
            found += [one for one in await asyncio.gather(*(self._one(who.user, topic) for topic in some)) if one is not None]
        found.sort(key=_order)
        if behind is not None:
            found = [one for one in found if _order(one) > behind]
        page = await asyncio.gather(*(self._shown(who, one) for one in found[:limit]))
        more = f"{page[-1]['active']}.{page[-1]['topic']}" if len(found) > limit else None
        return {"conversations": list(page), "next": more}

    async def _one(self, user: str, topic: str) -> _One | None:
        member = await self._conversations.members.of(user, topic)
        if member is None:
            return None
        if member.invited:
            return _One(member.joined, topic, member, None)
        storage = self._server.storage
        last = await storage.read_conversation(topic, after=member.floor, limit=1, newest_first=True, max_bytes=1)
        return _One(max(last[0].time, member.joined) if last else member.joined, topic, member, last[0] if last else None)

    async def _shown(self, who: Who, one: _One) -> dict[str, Any]:
        about = await self._conversations.members.store.about(one.topic)
        shown = {
            "topic": one.topic,
            "kind": about.kind if about else "",
            "name": about.name if about else "",
            "role": one.member.role,
            "invited": one.member.invited,
            "muted": one.member.muted,
            "active": one.time,
        }
        return {**shown, **await self._counts(who.user, one)}

    async def _counts(self, user: str, one: _One) -> dict[str, Any]:
        """How far the user is. Messages that expired are in no count, the user's own in none of what is unread."""
        storage, now, topic = self._server.storage, self._server.now(), one.topic
        if one.member.invited:
            return {"last_message": None, "position": 0, "last": 0, "total": 0, "unread": 0, "mentions": 0}
        first, last = await storage.conversation_bounds(topic)
        hidden = max(one.member.floor, first - 1)
        position = min(last, await storage.read_position(user, topic))
        base = max(position, hidden)
        unread = last - base
        if unread:
            own = await storage.sent_between(topic, user, max(base, last - OWN_COUNTED), now)
            unread -= own + await storage.expired_between(topic, base, now)
        return {
            "last_message": rendered(one.last) if one.last is not None and not one.last.expired(now) else None,
            "position": position,
            "last": last,
            "total": max(0, last - hidden - await storage.expired_between(topic, hidden, now)),
            "unread": max(0, unread),
            "mentions": await self._mentions(user, topic, base),
        }

    async def _mentions(self, user: str, topic: str, base: int) -> int:
        """Messages past a sequence that mention the user. Those that were read are forgotten on this occasion."""
        storage = self._server.storage
        rows = await storage.rows(MENTIONS, user, prefix=f"{topic}{BETWEEN}", limit=MOST_MENTIONS)
        if not rows:
            return 0
        ids = {parse_id(row.key.rpartition(BETWEEN)[2]): row for row in rows}
        unread = {m.id for m in await storage.read_messages(list(ids)) if m.seq > base and not m.expired(self._server.now())}
        if read := [DropRow(MENTIONS, user, row.key) for id, row in ids.items() if id not in unread]:
            await self._conversations.members.store.write(read)
        return len(unread)

    async def mentions(self, message: Message) -> list[PutRow]:
        """What is to be stored with a message for those whom it mentions, and who are members."""
        pairs = message_properties(message).get(Property.USER_PROPERTY, ())
        named = dict.fromkeys(_user_of(value) for name, value in pairs if name == MENTIONED and value)
        rows = []
        for user in list(named)[:_NAMED]:
            member = None if user == message.user else await self._conversations.members.of(user, message.topic)
            if member is not None and not member.invited:
                rows.append(PutRow(MENTIONS, user, f"{message.topic}{BETWEEN}{message.id:016x}", b""))
        return rows


def _user_of(named: str) -> str:
    return named if named.startswith(("u/", "c/")) else f"u/{named}"


def _order(one: _One) -> tuple[int, str]:
    return -one.time, one.topic


def _place(cursor: str) -> tuple[int, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise Unprocessable(f"after {cursor[:40]!r} is not one of ours")
    return -int(match[1]), match[2]
