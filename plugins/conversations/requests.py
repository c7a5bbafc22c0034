"""Conversations over MQTT: the same by requests on `$sync/request` (docs/sync.md)."""

from __future__ import annotations

from typing import Any

from broker.hooks import Request
from plugins.conversations.checks import AT_ONCE
from plugins.conversations.listing import Listing
from plugins.conversations.model import START
from plugins.conversations.service import Conversations
from plugins.conversations.values import Values
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind
from plugins.timelines import Who


class Requests:
    """Answers them."""

    def __init__(self, conversations: Conversations, listing: Listing, values: Values) -> None:
        self._conversations = conversations
        self._listing = listing
        self._values = values

    def kinds(self) -> dict[str, Kind]:
        """By their ``op``."""
        return {
            "conversation-create": Kind(self._create, ("kind", "name", "history", "topic", "members")),
            "conversation-about": Kind(self._about, ("topic",)),
            "conversation-change": Kind(self._change, ("topic", "name", "history")),
            "conversation-list": Kind(self._list, ("after", "limit")),
            "conversation-members": Kind(self._members, ("topic", "after", "limit")),
            "conversation-member": Kind(self._member, ("topic", "user", "role", "invite", "existing")),
            "conversation-join": Kind(self._join, ("topic",)),
            "conversation-remove": Kind(self._remove, ("topic", "user")),
            "conversation-leave": Kind(self._leave, ("topic",)),
            "conversation-mute": Kind(self._mute, ("topic", "muted")),
            "values": Kind(self._list_values, ("after", "limit")),
            "value-set": Kind(self._set_value, ("key", "value")),
        }

    async def _create(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.create(
            who,
            asked.text("kind"),
            name=asked.text("name", ""),
            history=asked.text("history", START),
            topic=asked.text("topic", ""),
            members=asked.texts("members", AT_ONCE, []),
        )

    async def _about(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.about(who, asked.text("topic"))

    async def _change(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        name, history = asked.text("name", ""), asked.text("history", "")
        return await self._conversations.change(
            who,
            asked.text("topic"),
            name=name if asked.has("name") else None,
            history=history if asked.has("history") else None,
        )

    async def _list(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._listing.page(who, asked.text("after", ""), asked.limit(100))

    async def _members(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.listed(who, asked.text("topic"), asked.text("after", ""), asked.limit())

    async def _member(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.put(
            who,
            asked.text("topic"),
            asked.text("user"),
            asked.text("role", ""),
            invite=asked.flag("invite"),
            existing=asked.flag("existing"),
        )

    async def _join(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.join(who, asked.text("topic"))

    async def _remove(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        await self._conversations.remove(who, asked.text("topic"), asked.text("user"))
        return {}

    async def _leave(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        await self._conversations.remove(who, asked.text("topic"), who.user)
        return {}

    async def _mute(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._conversations.mute(who, asked.text("topic"), asked.flag("muted", required=True))

    async def _list_values(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._values.listed(who, asked.text("after", ""), asked.limit(100, 100))

    async def _set_value(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._values.set(who, asked.text("key"), asked.any("value"), request.device.client_id)
