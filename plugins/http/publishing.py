"""Routes: publish messages, one or many. What is published to a conversation's own path goes the same way."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header
from pydantic import Discriminator, Field, Tag
from starlette.responses import Response

from broker.amqtt import Undecided
from plugins.http.api import Acting, Api, ApiDep, checked_user, responses
from plugins.http.errors import problem_body
from plugins.http.models import NewMessage, NewTopicMessage, Outcomes, Receipt
from plugins.http.rendering import reply
from plugins.http.strict import router_of
from plugins.timelines import Problem, Unprocessable, Who
from plugins.timelines.messages import MENTIONED, payload_bytes
from plugins.timelines.publishing import Draft
from plugins.timelines.publishing import Receipt as Stored

router = router_of("conversations")

MOST = 500
"""Messages in one call."""


_ONE, _LIST = "(one)", "(list)"
"""Which of the two a body is. In parentheses it is no field's name, and `errors` leaves it out."""


def _kind(body: Any) -> str:
    return _LIST if isinstance(body, list) else _ONE


Messages = Annotated[list[NewTopicMessage], Field(min_length=1, max_length=MOST)]
Body = Annotated[
    Annotated[NewTopicMessage, Tag(_ONE)] | Annotated[Messages, Tag(_LIST)],
    Discriminator(_kind),
]


@router.post(
    "/messages",
    response_model=Receipt | Outcomes,
    status_code=201,
    responses={
        **responses(),
        200: {"model": Receipt | Outcomes, "description": "stored earlier under this key; or what came of each of a list"},
        202: {"model": Receipt, "description": "storage has it and does not answer"},
    },
)
async def publish(
    body: Body,
    api: ApiDep,
    who: Acting,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Publish a message, or a list of up to 500. 201: it is as durable as one whose MQTT publish was acknowledged.

    A list is published in its order, and answered 200 with what came of each: one that is refused keeps none of the others
    back. `message_id`, or for one message an `Idempotency-Key`, makes a repeat store nothing and answer with the first one's
    place.
    """
    if isinstance(body, NewTopicMessage):
        key = key_of(idempotency_key) or body.message_id or ""
        if idempotency_key is not None and body.message_id not in (None, key):
            raise Unprocessable("Idempotency-Key and message_id differ: one of them is enough")
        return published(await outcome(api, who, draft_of(body.topic, body, key)))
    if idempotency_key is not None:
        raise Unprocessable("Idempotency-Key: is for one message; give each of a list a message_id")
    drafts = [draft_of(message.topic, message, message.message_id or "", f"body.{i}.") for i, message in enumerate(body)]
    done = await api.timelines.publisher.publish_all(who, drafts)
    return reply({"results": [_result(draft, found) for draft, found in zip(drafts, done, strict=True)]})


def key_of(header: str | None) -> str:
    """An Idempotency-Key as text, which it is over MQTT; the framework takes the bytes of a header for Latin-1."""
    try:
        return "" if header is None else header.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise Unprocessable(f"Idempotency-Key {header!r}: is not UTF-8") from None


def draft_of(topic: str, body: NewMessage, key: str, place: str = "", device: str = "") -> Draft:
    """What is to be published. Raises `Unprocessable`, which begins with the ``place`` in the body."""
    try:
        payload = payload_bytes(body.payload, body.encoding)
        correlation = payload_bytes(body.correlation_data, "base64", "correlation_data") if body.correlation_data else b""
    except Unprocessable as problem:
        raise Unprocessable(f"{place}{problem.detail}") from problem
    return Draft(
        topic,
        payload,
        body.qos,
        body.retain,
        body.expiry,
        body.content_type or ("application/json" if body.encoding == "json" else None),
        (
            *((pair[0], pair[1]) for pair in body.properties),
            *((MENTIONED, _mentioned(user, place)) for user in body.mentions),
            *(("tideline-receipt", state) for state in body.receipt),
        ),
        body.encoding != "base64",
        body.response_topic,
        correlation,
        device,
        key,
    )


def _mentioned(user: str, place: str) -> str:
    try:
        return checked_user(user) or ""
    except Unprocessable as problem:
        raise Unprocessable(f"{place}mentions: {problem.detail}") from problem


async def outcome(api: Api, who: Who, draft: Draft) -> tuple[int, dict[str, Any]]:
    """Publish: the status and the answer. Raises `Problem`."""
    (found,) = await api.timelines.publisher.publish_all(who, [draft])
    if isinstance(found, Problem):
        raise found
    return _answer(draft, found)


def _answer(draft: Draft, found: Stored | Undecided) -> tuple[int, dict[str, Any]]:
    if isinstance(found, Undecided):
        return 202, {"id": "", "topic": draft.topic, "seq": 0, "time": None, "state": "pending"}
    return 200 if found.repeated else 201, {**found.shown, "state": "stored"}


def published(answer: tuple[int, dict[str, Any]]) -> Response:
    """The answer about one message."""
    status, receipt = answer
    headers = {"Retry-After": "5"} if status == 202 else {"Location": f"/v1/messages/{receipt['id']}"}
    return reply(receipt, status, headers)


def _result(draft: Draft, found: Stored | Problem | Undecided) -> dict[str, Any]:
    if isinstance(found, Problem):
        return {"status": found.status, "topic": draft.topic, "error": problem_body(found)}
    status, receipt = _answer(draft, found)
    return {"status": status, **receipt}
