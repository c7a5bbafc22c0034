"""Routes: conversations, their messages, and read positions."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Header, Query
from starlette.requests import Request
from starlette.responses import Response

from broker.packets import Property
from plugins.http.api import Acting, ApiDep, Caller, Limit, Operator, responses
from plugins.http.models import (
    MAX_INT,
    Conversations,
    Message,
    Messages,
    NewMessage,
    Position,
    ReadPosition,
    Receipt,
    TopicLevel,
    moment,
)
from plugins.http.publishing import draft_of, key_of, outcome, published
from plugins.http.rendering import reply, tagged
from plugins.http.strict import router_of
from plugins.timelines.messages import message_properties
from plugins.timelines.service import Range

router = router_of("conversations")

Seq = Annotated[int, Query(ge=0, le=MAX_INT)]
Time = Annotated[str | None, Query(max_length=40, description="milliseconds since 1970, or RFC 3339")]


@router.get("/conversations", response_model=Conversations, responses=responses())
async def list_conversations(
    request: Request,
    api: ApiDep,
    who: Acting,
    after: Annotated[str, Query(max_length=65535, description="`next` of the page before")] = "",
    limit: Limit = 50,
) -> Response:
    """My conversations, by name: last message, last sequence, how many are unread."""
    return tagged(request, await api.timelines.conversations(who, after, min(limit, 100)))


@router.get("/topics", response_model=TopicLevel, responses=responses())
async def list_topics(
    request: Request,
    api: ApiDep,
    who: Operator,
    prefix: Annotated[str, Query(max_length=65535, description="what the names begin with, such as `home/`")] = "",
    after: Annotated[str, Query(max_length=65535, description="`next` of the page before")] = "",
    limit: Limit = 100,
) -> Response:
    """The stored topics as a tree: the topics and the levels right below a prefix, by name. For the operator."""
    return tagged(request, await api.timelines.topics(prefix, after, min(limit, 100)))


@router.get("/conversations/{topic:path}/messages", response_model=Messages, responses=responses())
async def read_messages(
    request: Request,
    topic: str,
    api: ApiDep,
    who: Acting,
    after: Seq = 0,
    before: Seq = 0,
    since: Time = None,
    until: Time = None,
    order: Literal["oldest", "newest"] | None = None,
    limit: Limit = 50,
    cursor: Annotated[str, Query(max_length=64, description="`next` of the page before")] = "",
) -> Response:
    """A conversation's history: after or before a sequence or a time, in either direction.

    Newest first, unless `after` or `since` is given or `order` says otherwise.
    """
    newest = order == "newest" if order else not {"after", "since"} & request.query_params.keys()  # also where it is 0
    asked = Range(after, before, moment("since", since), moment("until", until), newest, limit, cursor)
    return tagged(request, await api.timelines.history(who, topic, asked))


@router.post(
    "/conversations/{topic:path}/messages",
    response_model=Receipt,
    status_code=201,
    responses={
        **responses(),
        200: {"model": Receipt, "description": "stored earlier under this key"},
        202: {"model": Receipt, "description": "storage has it and does not answer"},
    },
)
async def publish(
    topic: str,
    body: NewMessage,
    api: ApiDep,
    who: Acting,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Publish a message. 201: it is as durable as one whose MQTT publish was acknowledged.

    With an `Idempotency-Key` (per user, for a day unless configured otherwise) a repeat answers 200 with the first one's place;
    the same key with another content is a conflict. 503: it was not stored and will not be. 202: storage was given it and has
    not answered; ask again with the same key.
    """
    return published(await outcome(api, who, draft_of(topic, body, key_of(idempotency_key))))


@router.get("/conversations/{topic:path}/position", response_model=Position, responses=responses())
async def read_position(request: Request, topic: str, api: ApiDep, who: Acting) -> Response:
    """How far I have read, and how many messages are left."""
    return tagged(request, await api.timelines.position(who, topic))


@router.put("/conversations/{topic:path}/position", response_model=Position, responses=responses())
async def mark_read(topic: str, body: ReadPosition, api: ApiDep, who: Acting) -> Response:
    """Move my read position; my connected devices hear of it on `$sync/events/<client id>`."""
    return reply(await api.timelines.mark(who, topic, body.position, back=body.back))


@router.get("/messages/{message_id}", response_model=Message, responses=responses())
async def read_message(request: Request, message_id: str, api: ApiDep, who: Acting) -> Response:
    """One message by its id."""
    return tagged(request, await api.timelines.shown(await api.timelines.message(who, message_id)))


@router.get(
    "/messages/{message_id}/payload",
    response_class=Response,
    responses={**responses(), 200: {"content": {"application/octet-stream": {}}, "description": "the payload's bytes"}},
)
async def read_payload(message_id: str, api: ApiDep, who: Caller) -> Response:
    """One message's payload, byte for byte. Its content type is in `X-Content-Type`, since it is not ours to vouch for."""
    message = await api.timelines.message(who, message_id)
    kind = str(message_properties(message).get(Property.CONTENT_TYPE, ""))
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment", "Cache-Control": "private"}
    if kind and kind.isascii() and kind.isprintable():
        headers["X-Content-Type"] = kind
    return Response(message.payload, media_type="application/octet-stream", headers=headers)
