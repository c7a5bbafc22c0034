"""Routes: recalling and editing a message, and reactions to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Acting, responses
from plugins.http.models import Body
from plugins.http.publishing import key_of
from plugins.http.rendering import reply, tagged
from plugins.recall.service import Edit, Recalls
from plugins.timelines.messages import payload_bytes


class RecallBody(Body):
    """Nothing has to be said."""


class Recalled(BaseModel):
    """``recalled`` is the message. ``by`` is the one that recalled it, with its place; ``again``: it was recalled before."""

    recalled: str
    again: bool
    by: str | None = None
    seq: int | None = None
    time: int | None = None


class NewVersion(Body):
    """The content of a later version, as that of a new message."""

    payload: Any
    """A string; with `"encoding": "json"` any JSON value."""
    encoding: Literal["text", "json", "base64"] = "text"
    content_type: Annotated[str, Field(max_length=1024)] | None = None


class Edited(BaseModel):
    """``edited`` is the message; the rest is where its new version stands. ``time`` is null for a repeat of what is
    gone by now."""

    edited: str
    id: str
    seq: int
    time: int | None


class Version(BaseModel):
    """``recalled`` is the id of the message that recalled it."""

    id: str
    seq: int
    sender: str
    time: int
    recalled: str | None


class VersionList(BaseModel):
    versions: list[Version]


Reaction = Annotated[str, Path(min_length=1, max_length=64, description="text of up to 64 bytes, such as an emoji")]


class Reacted(BaseModel):
    """``message`` is the one that was reacted to; the rest is where the message stands that says so."""

    message: str
    reaction: str
    id: str
    seq: int
    time: int


class GivenReaction(BaseModel):
    user: str
    reaction: str


class ReactionList(BaseModel):
    reactions: list[GivenReaction]


def make_router(recalls: Recalls) -> APIRouter:
    """The routes of a plugin."""
    router = APIRouter(tags=["conversations"])

    @router.post("/messages/{message_id}/recall", response_model=Recalled, responses=responses())
    async def recall(message_id: str, who: Acting, body: RecallBody | None = None) -> Response:
        """Recall a message of mine, or one of a topic where I may: its content goes, and every device that has it hears of it.

        It keeps its place, without payload and properties. Whoever subscribes to the topic gets a message that names it.
        """
        return reply(await recalls.recall(who, message_id))

    @router.post(
        "/messages/{message_id}/versions",
        response_model=Edited,
        status_code=201,
        responses={**responses(), 200: {"model": Edited, "description": "stored earlier under this key"}},
    )
    async def edit(
        message_id: str,
        who: Acting,
        body: NewVersion,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> Response:
        """Edit a message of mine: whoever subscribes to the topic gets the new version, and the history shows its content.

        With an `Idempotency-Key` (per user, for a day unless configured otherwise) a repeat stores nothing and answers 200 with
        the first one's place; the same key with another content is a conflict. 503 may mean that storage was given it and has
        not answered; ask again with the same key.
        """
        key = key_of(idempotency_key)
        payload = payload_bytes(body.payload, body.encoding)
        content_type = body.content_type or ("application/json" if body.encoding == "json" else None)
        made, repeated = await recalls.edit(who, message_id, Edit(payload, content_type, body.encoding != "base64"), key=key)
        return reply(made, 200 if repeated else 201, {"Location": f"/v1/messages/{made['id']}"})

    @router.get("/messages/{message_id}/versions", response_model=VersionList, responses=responses())
    async def versions(request: Request, message_id: str, who: Acting) -> Response:
        """Who wrote which version of a message when, the first one first. Each can be read by its id."""
        return tagged(request, {"versions": await recalls.versions(who, message_id)})

    @router.put("/messages/{message_id}/reactions/{reaction:path}", response_model=Reacted, responses=responses())
    async def react(message_id: str, reaction: Reaction, who: Acting, body: RecallBody | None = None) -> Response:
        """React to a message. Once is enough: again changes nothing."""
        return reply(await recalls.react(who, message_id, reaction))

    @router.delete("/messages/{message_id}/reactions/{reaction:path}", response_model=Reacted, responses=responses())
    async def take_back(message_id: str, reaction: Reaction, who: Acting) -> Response:
        """Take my reaction back."""
        return reply(await recalls.react(who, message_id, reaction, back=True))

    @router.get("/messages/{message_id}/reactions", response_model=ReactionList, responses=responses())
    async def reactions(request: Request, message_id: str, who: Acting) -> Response:
        """Who reacted to a message with what: 1,000 at most."""
        return tagged(request, {"reactions": await recalls.reactions(who, message_id)})

    return router
