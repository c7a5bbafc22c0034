"""Routes: search, within what the caller may read, and the index as the operator sees it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from broker.access import SEARCH
from plugins.http.api import Acting, Api, ApiDep, Operator, responses
from plugins.http.models import MAX_INT, Hits, IndexState, Rebuild, moment
from plugins.http.rendering import reply
from plugins.http.strict import router_of
from plugins.search.service import Query as SearchQuery
from plugins.search.service import Rebuilding, Search, SearchError, SearchUnavailable, Sort, wording
from plugins.searching import search_plugin, searched
from plugins.timelines import NotFound, Unprocessable, Who
from plugins.timelines.errors import Away
from plugins.timelines.keys import checked_sender
from plugins.timelines.messages import hex_id, parse_id

router = router_of("search")


@router.get("/search", response_model=Hits, responses=responses())
async def search(
    request: Request,
    api: ApiDep,
    who: Acting,
    q: Annotated[str, Query(max_length=1000)] = "",
    conversation: Annotated[list[str] | None, Query(max_length=100, description="exact topics")] = None,
    topic_filter: Annotated[str, Query(max_length=65535, description="an MQTT topic filter")] = "",
    sender: Annotated[str, Query(max_length=65535, description="a user key, such as u/alice")] = "",
    since: Annotated[str | None, Query(max_length=40)] = None,
    until: Annotated[str | None, Query(max_length=40)] = None,
    sort: Sort = "relevance",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=1000, description="`next` of the page before, with the same query")] = "",
    min_seq: Annotated[int | None, Query(ge=1, le=MAX_INT, description="with one conversation: wait for it")] = None,
    wait_indexed: Annotated[str, Query(max_length=16, description="a message id to wait for")] = "",
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for either")] = 5.0,
) -> Response:
    """Find messages. Hits, totals and pages are those of an index that holds only what the caller may read."""
    sender = checked_sender(sender)
    plugin = search_plugin(api.server)
    try:
        await _indexed(api, who, plugin, conversation, min_seq, wait_indexed, min(wait, api.max_wait))
        if min_seq is not None or wait_indexed:  # who asks may have been shut out meanwhile
            await api.authenticator.who(request)
    except SearchError as error:
        raise Away(wording(error, operator=who.operator), retry_after=5) from error
    query = SearchQuery(
        q=q,
        topic_filter=topic_filter,
        sender=sender,
        since=moment("since", since),
        until=moment("until", until),
        sort=sort,
        limit=limit,
        cursor=cursor,
    )
    return reply(await searched(api.timelines, who, query, conversation))


@router.get("/search/index", response_model=IndexState, responses=responses())
async def index_state(api: ApiDep, who: Operator) -> Response:
    """For the operator: how far the index trails the store, and the rebuild under way, or how the last one ended."""
    plugin = search_plugin(api.server)
    try:
        lag, errors = plugin.lag(), plugin.failures()
    except SearchUnavailable as error:
        raise Away(str(error), retry_after=5) from error
    rebuild = None if plugin.rebuilding is None else _shown(plugin.rebuilding)
    state = {"lag_messages": lag.messages, "lag_milliseconds": lag.milliseconds, "position": hex_id(lag.position)}
    return reply({**state, "errors": errors, "rebuild": rebuild})


@router.post("/search/reindex", response_model=Rebuild, status_code=202, responses=responses())
async def reindex(api: ApiDep, who: Operator) -> Response:
    """For the operator: build the index again beside the live one, and switch. The one under way, if one is."""
    try:
        return reply(_shown(search_plugin(api.server).begin_reindex()), 202)
    except SearchUnavailable as error:
        raise Away(str(error), retry_after=5) from error


@router.delete("/search/reindex", status_code=204, response_class=Response, responses=responses())
async def cancel_reindex(api: ApiDep, who: Operator) -> Response:
    """For the operator: call off the rebuild under way; the index stays as it was."""
    if not await search_plugin(api.server).cancel_reindex():
        raise NotFound("no rebuild is under way")
    return Response(status_code=204)


def _shown(rebuilding: Rebuilding) -> dict[str, object]:
    texts = {"error": rebuilding.error or None, "waiting": rebuilding.waiting or None}
    return {**asdict(rebuilding), "ended": rebuilding.ended or None, **texts}


async def _indexed(
    api: Api, who: Who, plugin: Search, conversation: list[str] | None, min_seq: int | None, message_id: str, wait: float
) -> None:
    if message_id:
        number = parse_id(message_id)
        if not number:
            raise Unprocessable(f"wait_indexed {message_id!r}: must be a message id, 16 hexadecimal digits")
        await api.timelines.message(who, message_id, SEARCH)  # any other would tell when the newest message of all was stored
        with api.waiting(who):
            if not await plugin.wait_indexed(number, wait):
                raise Away("the index has not come that far yet", retry_after=1)
    if min_seq is not None:
        if conversation is None or len(conversation) != 1:
            raise Unprocessable("min_seq needs exactly one conversation")
        await api.timelines.readable(who, conversation[0], SEARCH)  # how long it is is nobody else's business
        with api.waiting(who):
            if not await plugin.wait_sequence(conversation[0], min_seq, wait):
                raise Away("the index has not come that far yet", retry_after=1)
