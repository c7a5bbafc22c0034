"""Recalling and editing for callers of the HTTP API and of `$sync/request`: a message is published that does it."""

from __future__ import annotations

from typing import Any, NamedTuple

from broker.amqtt import Services, Undecided
from plugins.reaction_rows import given_to
from plugins.recall.asked import REACTS, RECALLS, UNREACTS
from plugins.recall.known import Known
from plugins.timelines import OPERATOR, Problem, Timelines, Unprocessable, Who
from plugins.timelines.errors import Away, Conflict
from plugins.timelines.messages import EDITS, hex_id
from plugins.timelines.publishing import Draft, Receipt

_TIMEOUT = 10.0


class Edit(NamedTuple):
    """The content of a later version; ``text``: it is UTF-8."""

    payload: bytes
    content_type: str | None
    text: bool


class Recalls:
    """``timeout``: seconds that storage is waited for."""

    def __init__(self, server: Services, timeout: float = _TIMEOUT) -> None:
        self.server = server
        self._timelines = Timelines(server, timeout)

    async def recall(self, who: Who, message_id: str, device: str = "") -> dict[str, Any]:
        """Recall a message that the caller may read: where the message that recalls it stands. What was recalled before is not
        recalled again. Raises a `plugins.timelines.Problem`."""
        message = await self._timelines.message(who, message_id)
        if message.recalled:
            return {"recalled": message_id, "again": True}
        draft = Draft(message.topic, b"", properties=((RECALLS, hex_id(message.id)),), device=device)
        if who.operator:  # who may recall what others sent is one of the broker's own
            who = Who(OPERATOR, None, operator=True)
        shown = (await self._published(who, draft, "the message may still be recalled")).shown
        return {"recalled": message_id, "again": False, "by": shown["id"], "seq": shown["seq"], "time": shown["time"]}

    async def edit(self, who: Who, message_id: str, edit: Edit, device: str = "", key: str = "") -> tuple[dict[str, Any], bool]:
        """Publish a later version of a message of the caller's: where that stands, and whether one under this ``key`` stood
        there before. Raises a `plugins.timelines.Problem`; `Conflict` where that one is an edit of another message."""
        message = await self._timelines.message(who, message_id)
        named = ((EDITS, hex_id(message.id)),)
        draft = Draft(
            message.topic,
            edit.payload,
            content_type=edit.content_type,
            properties=named,
            text=edit.text,
            retain=message.retain,
            device=device,
            key=key,
        )
        found = await self._published(who, draft, "the message may still be edited")
        shown = found.shown
        if found.repeated:
            first = await self.server.storage.read_message(int(shown["id"], 16))
            if first is not None and not first.recalled and Known.of(first).edits != message.id:
                raise Conflict(f"idempotency key {key!r} was used for another message")
        return {"edited": message_id, "id": shown["id"], "seq": shown["seq"], "time": shown["time"]}, found.repeated

    async def react(self, who: Who, message_id: str, text: str, *, back: bool = False, device: str = "") -> dict[str, Any]:
        """React to a message that the caller may read, or take that back: where the message that says so stands."""
        message = await self._timelines.message(who, message_id)
        try:
            payload = text.encode()
        except UnicodeEncodeError as error:
            raise Unprocessable("reaction: not valid Unicode") from error
        named = ((UNREACTS if back else REACTS, hex_id(message.id)),)
        draft = Draft(message.topic, payload, properties=named, text=True, device=device)
        shown = (await self._published(who, draft, "the reaction may still count")).shown
        return {"message": message_id, "reaction": text, "id": shown["id"], "seq": shown["seq"], "time": shown["time"]}

    async def reactions(self, who: Who, message_id: str) -> list[dict[str, str]]:
        """Who reacted to a message with what."""
        message = await self._timelines.message(who, message_id)
        given = await given_to(self.server.storage, message.topic, message.seq)
        return [{"user": one.user, "reaction": one.reaction} for one in sorted(given)]

    async def versions(self, who: Who, message_id: str) -> list[dict[str, Any]]:
        """See `plugins.timelines.Timelines.versions`."""
        return await self._timelines.versions(who, message_id)

    async def _published(self, who: Who, draft: Draft, undecided: str) -> Receipt:
        (found,) = await self._timelines.publisher.publish_all(who, [draft])
        if isinstance(found, Problem):
            raise found
        if isinstance(found, Undecided):
            raise Away(f"storage does not answer; {undecided}", retry_after=5) from found
        return found
