"""A user's own conversations: by last activity, with the last message, and how much of it is unread."""

from __future__ import annotations

import asyncio
import heapq
import re
from typing import Any, NamedTuple

from broker.hooks import Refusal
from broker.packets import Property
from plugins.conversations.model import BETWEEN, MENTIONS, Membership, Outline
from plugins.conversations.service import Conversations
from plugins.timelines import Unprocessable, Who
from plugins.timelines.messages import MENTIONED, message_properties, parse_id, rendered
from storage.records import Append, DropRow, PutRow

_AT_ONCE = 500
"""Conversations whose ends are read together."""
OWN_COUNTED = 10_000
"""Messages past a read position among which one's own are counted. Of more unread ones, own ones count as well."""
MOST_MENTIONS = 100
"""Mentions of a user in one conversation that are counted."""
_NAMED = 50
"""Users that one message mentions at most."""
_CURSOR = re.compile(r"(\d{1,18})\.(.+)", re.DOTALL)


class _Place(NamedTuple):
    """Where a conversation is in the list. ``ago``: when it was active last (ms), negative, so that the last comes first."""

    ago: int
    topic: str


class Listing:
    """Lists the conversations of users, ``most`` of each."""

    def __init__(self, conversations: Conversations, most: int) -> None:
        self._conversations = conversations
        self._server = conversations.server
        self._most = most

    async def page(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """A page, what was active last first; ``after`` is ``next`` of the page before."""
        behind = _place(after) if after else None
        every = await self._places(who.user)
        found = heapq.nsmallest(limit + 1, every if behind is None else [place for place in every if place > behind])
        page = await asyncio.gather(*(self._shown(who, place) for place in found[:limit]))
        more = f"{-found[limit - 1].ago}.{found[limit - 1].topic}" if len(found) > limit else None
        return {"conversations": [shown for shown in page if shown is not None], "next": more}

    async def _places(self, user: str) -> list[_Place]:
        """Of all of a user's conversations."""
        mine = await self._conversations.members.store.outlines(user, self._most + 1)  # with the user's own
        places: list[_Place] = []
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            ends = await self._server.storage.newest([topic for topic, _ in some])
            for (topic, known), end in zip(some, ends, strict=True):
                outline = known or await self._outline(user, topic)
                if outline is not None:
                    seen = not outline.invited and end.seq > outline.floor
                    places.append(_Place(-max(end.time, outline.joined) if seen else -outline.joined, topic))
        return places

    async def _outline(self, user: str, topic: str) -> Outline | None:
        member = await self._conversations.members.of(user, topic)
        return None if member is None else member.outline

    async def _shown(self, who: Who, place: _Place) -> dict[str, Any] | None:
        """None where it is none of the user's any more."""
        topic = place.topic
        member = await self._conversations.members.of(who.user, topic)
        if member is None:
            return None
        about = await self._conversations.members.store.about(topic)
        shown = {
            "topic": topic,
            "kind": about.kind if about else "",
            "name": about.name if about else "",
            "role": member.role,
            "invited": member.invited,
            "muted": member.muted,
            "active": -place.ago,
        }
        return {**shown, **await self._counts(who.user, topic, member)}

    async def _counts(self, user: str, topic: str, member: Membership) -> dict[str, Any]:
        """How far the user is. Messages that expired are in no count, the user's own in none of what is unread."""
        storage, now = self._server.storage, self._server.now()
        if member.invited:
            return {"last_message": None, "position": 0, "last": 0, "total": 0, "unread": 0, "mentions": 0}
        first, last = await storage.conversation_bounds(topic)
        newest = await storage.read_conversation(topic, after=member.floor, limit=1, newest_first=True)
        hidden = max(member.floor, first - 1)
        position = min(last, await storage.read_position(user, topic))
        base = max(position, hidden)
        unread = last - base
        if unread:
            own = await storage.sent_between(topic, user, max(base, last - OWN_COUNTED), now)
            unread -= own + await storage.expired_between(topic, base, now)
        return {
            "last_message": rendered(newest[0]) if newest and not newest[0].expired(now) else None,
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

    async def mentions(self, append: Append) -> list[PutRow]:
        """What is to be stored with a message for those whom it mentions, and are members. Raises `Refusal` for too many."""
        message = append.message
        pairs = message_properties(message).get(Property.USER_PROPERTY, ())
        named = dict.fromkeys(_user_of(value) for name, value in pairs if name == MENTIONED and value)
        if len(named) > _NAMED:
            raise Refusal(f"user property {MENTIONED}: {len(named)} users, a message mentions at most {_NAMED}")
        rows = []
        for user in named:
            member = None if user == message.user else await self._conversations.members.of(user, message.topic)
            if member is not None and not member.invited:
                row = PutRow.naming(append, MENTIONS, user, lambda id: (f"{message.topic}{BETWEEN}{id:016x}", b""))
                rows.append(row)
        return rows


def _user_of(named: str) -> str:
    return named if named.startswith(("u/", "c/")) else f"u/{named}"


def _place(cursor: str) -> _Place:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise Unprocessable(f"after {cursor[:40]!r} is not one of ours")
    return _Place(-int(match[1]), match[2])
