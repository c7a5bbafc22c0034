"""Who is online, over HTTP and by `$sync/request`: as the retained messages tell it, and under the same access rules."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from broker.access import RECEIVE, SUBSCRIBE
from broker.amqtt import Services
from broker.hooks import Request
from plugins.http.api import Acting, Limit, checked_user, responses
from plugins.http.models import LONGEST_USER
from plugins.http.rendering import tagged
from plugins.presence.record import PREFIX, topic_of
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind
from plugins.timelines import Forbidden, Who

_LOOKED_AT = 5000
"""Users that one call goes through, at most, to find some that the caller may see."""


class DevicePresence(BaseModel):
    """``since``: when it came online, or was last seen (ms)."""

    device: str
    online: bool
    since: int


class UserPresence(BaseModel):
    """``since``: when the user came online, or was last seen (ms); null of one who never was."""

    user: str
    online: bool
    since: int | None
    devices: list[DevicePresence]


class PresenceList(BaseModel):
    users: list[UserPresence]
    next: str | None


class Reader:
    """What a caller may see."""

    def __init__(self, server: Services) -> None:
        self._server = server

    async def one(self, who: Who, user: str) -> dict[str, Any]:
        """A user's presence. Raises `Forbidden`."""
        topic = topic_of(user)
        if not await self._may(who, topic):
            raise Forbidden(f"presence of {user[:80]!r}: you may not see it")
        found = await self._server.storage.retained_range(topic, "", 1)  # it comes before all that begin with it
        if found and found[0].topic == topic:
            return dict(json.loads(found[0].payload))
        return {"user": user, "online": False, "since": None, "devices": []}

    async def page(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """Those that a caller may see, by topic. A page may be empty and have a ``next``."""
        users: list[dict[str, Any]] = []
        looked, place = 0, PREFIX + after
        while looked < _LOOKED_AT:
            found = await self._server.storage.retained_range(PREFIX, place, 256)
            if not found:
                return {"users": users, "next": None}
            for message in found:
                if await self._may(who, message.topic):
                    users.append(json.loads(message.payload))
                looked, place = looked + 1, message.topic
                if len(users) == limit:
                    return {"users": users, "next": place.removeprefix(PREFIX)}
        return {"users": users, "next": place.removeprefix(PREFIX)}

    async def _may(self, who: Who, topic: str) -> bool:
        access = self._server.access
        if who.operator or access.openness.open or topic == topic_of(who.user):
            return True
        if who.info is None:
            return False
        return await access.allowed(who.info, SUBSCRIBE, topic) and await access.allowed(who.info, RECEIVE, topic)


def kinds(reader: Reader) -> dict[str, Kind]:
    """What may be asked by a request."""

    async def presence(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        user = checked_user(asked.text("user"))
        assert user is not None
        return await reader.one(who, user)

    async def everybody(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await reader.page(who, asked.text("after", ""), asked.limit(100))

    return {"presence": Kind(presence, ("user",)), "presence-list": Kind(everybody, ("after", "limit"))}


def make_router(reader: Reader) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["presence"])

    @router.get("/presence", response_model=PresenceList, responses=responses())
    async def list_presence(
        request: HttpRequest,
        who: Acting,
        after: Annotated[str, Query(max_length=65535, description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """Who is online or was, of those whom I may see. A page may be empty and have a `next`."""
        return tagged(request, await reader.page(who, after, limit))

    @router.get("/presence/{name:path}", response_model=UserPresence, responses=responses())
    async def read_presence(
        request: HttpRequest,
        name: Annotated[str, Path(max_length=LONGEST_USER, description="u/name or c/client-id")],
        who: Acting,
    ) -> Response:
        """Whether a user is online, since when, and by which devices."""
        user = checked_user(name)
        assert user is not None
        return tagged(request, await reader.one(who, user))

    return router
