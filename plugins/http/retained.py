"""Routes: retained messages, as a SUBSCRIBE would be given them, and their end."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import BROKER_USER
from broker.packets import ProtocolViolation, is_wildcard, matches, reserved, validate_filter
from broker.publication import Outgoing, Publication
from plugins.http.api import Acting, Api, ApiDep, Limit, responses
from plugins.http.models import MAX_FILTER, RetainedMessages
from plugins.http.publishing import outcome
from plugins.http.rendering import tagged
from plugins.http.strict import router_of
from plugins.timelines import NotFound, Unprocessable, Who
from plugins.timelines.floors import floor_of
from plugins.timelines.messages import rendered
from plugins.timelines.publishing import Draft, check_name
from plugins.timelines.service import PAGE_BYTES
from storage.records import Message

router = router_of("retained")

_TIMEOUT = 10.0
_LOOKED_AT = 5000
"""Retained messages that one call goes through, at most, to find some that match."""


@router.get("/retained", response_model=RetainedMessages, responses=responses())
async def list_retained(
    request: Request,
    api: ApiDep,
    who: Acting,
    filter: Annotated[str, Query(min_length=1, max_length=MAX_FILTER)] = "#",
    after: Annotated[str, Query(max_length=65535, description="`next` of the page before")] = "",
    limit: Limit = 100,
) -> Response:
    """The retained messages that a filter matches and that I may read, by topic. A page may be empty and have a `next`."""
    try:
        validate_filter(filter)
    except ProtocolViolation as violation:
        raise Unprocessable(f"filter: {violation.text}") from violation
    found, next_ = await _page(api, who, filter, after, limit)
    return tagged(request, {"messages": [rendered(message) for message in found], "next": next_})


async def _page(api: Api, who: Who, filter_: str, after: str, limit: int) -> tuple[list[Message], str | None]:
    found: list[Message] = []
    if not is_wildcard(filter_):
        page = await api.server.storage.retained_range(filter_, after, 1)  # it comes before all that begin with it
        return [message for message in page if await _shown(api, who, filter_, message)], None
    looked, size = 0, 0
    prefix = _prefix(filter_)
    while looked < _LOOKED_AT and size < PAGE_BYTES:
        page = await api.server.storage.retained_range(prefix, after, min(256, _LOOKED_AT - looked), PAGE_BYTES - size)
        if not page:
            return found, None
        looked += len(page)
        for message in page:
            after = message.topic
            if await _shown(api, who, filter_, message):
                found.append(message)
                size += len(message.payload)
                if len(found) == limit:
                    return found, after
    return found, after


def _prefix(filter_: str) -> str:
    """What the topics begin with that a filter matches. ``a/#`` matches ``a`` too."""
    prefix = filter_[: min(place for sign in "+#" if (place := filter_.find(sign)) >= 0)]
    return prefix.removesuffix("/") if filter_.endswith("#") else prefix


async def _shown(api: Api, who: Who, filter_: str, message: Message) -> bool:
    if not matches(filter_, message.topic) or message.expired(api.server.now()):
        return False
    return await _visible(api, who, message)


async def _visible(api: Api, who: Who, message: Message) -> bool:
    if not await api.timelines.may_read(who, message.topic):
        return False
    floor = await floor_of(api.server, who, message.topic)
    return not floor or message.seq > floor


@router.delete("/retained/{topic:path}", status_code=204, response_class=Response, responses=responses())
async def clear_retained(topic: str, api: ApiDep, who: Acting) -> Response:
    """Clear a topic's retained message, by what clears it over MQTT: an empty retained message of mine to the topic. For the
    operator also what the broker said below `$presence`."""
    check_name(topic)
    page = await api.server.storage.retained_range(topic, "", 1)
    if not page or page[0].topic != topic or not await _visible(api, who, page[0]):
        raise NotFound(f"retained message of {topic[:80]!r}: there is none, or you may not read it")
    if who.operator and reserved(topic):  # which nobody says any more where its plugin is off
        message = Outgoing(topic, BROKER_USER, "", 1, b"", True)
        await api.server.append_within(Publication(message, retain=True), _TIMEOUT)
        return Response(status_code=204)
    status, _ = await outcome(api, who, Draft(topic, b"", 1, retain=True))
    return Response(status_code=202 if status == 202 else 204)
