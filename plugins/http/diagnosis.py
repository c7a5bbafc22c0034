"""Routes: the log's levels at run time, and traces. For the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker.config import suggest
from broker.log_levels import known
from broker.packets import ProtocolViolation, validate_filter
from broker.trace import Trace
from plugins.http.api import Api, ApiDep, Operator, checked_user, responses
from plugins.http.auth import Lasting
from plugins.http.models import LONGEST_USER, MAX_FILTER, Body
from plugins.http.rendering import dumps, reply
from plugins.http.strict import router_of
from plugins.http.sync import CHECK, first_of
from plugins.timelines import Problem, Unprocessable
from plugins.timelines.errors import TooMany

log = logging.getLogger(__name__)

router = router_of("operation")

MAX_TRACES = 10
BEAT = 15.0
"""Seconds between two signs of life of a trace."""


class LogLevel(Body):
    """A level, of the whole log or of one logger and those below it; `inherit` takes a logger's own level from it."""

    level: Literal["debug", "info", "warning", "error", "inherit"]
    """The least important lines that are written; `inherit` is for a logger."""
    logger: str = ""
    """Such as `broker.net`; empty for the whole log."""


class LogState(BaseModel):
    """The level of the whole log, and those of loggers that have one of their own."""

    level: str
    loggers: dict[str, str]


@router.get("/log", response_model=LogState, responses=responses())
async def levels(api: ApiDep, who: Operator) -> Response:
    """The log's levels. For the operator."""
    return reply(_state(api))


@router.put("/log", response_model=LogState, responses=responses())
async def set_level(body: LogLevel, api: ApiDep, who: Operator) -> Response:
    """Change the log's level until the restart. For the operator."""
    if body.level == "inherit" and not body.logger:
        raise Unprocessable("level: inherit is for a logger; the whole log has debug, info, warning or error")
    try:
        api.levels.set(body.level, body.logger)
    except KeyError:
        ours = [name for name in known() if name.count(".") < 2 and name.startswith(("broker", "plugins", "storage"))]
        raise Unprocessable(f"logger: {body.logger[:80]!r} is none{suggest(body.logger, ours)}") from None
    log.warning("log: %s is at %s until the restart", body.logger or "everything", body.level)
    return reply(_state(api))


def _state(api: Api) -> dict[str, Any]:
    level, loggers = api.levels.current()
    return {"level": level, "loggers": loggers}


@router.get(
    "/trace",
    response_class=StreamingResponse,
    responses={**responses(), 200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def trace(
    request: Request,
    api: ApiDep,
    who: Operator,
    client: Annotated[str, Query(max_length=65535, description="a client id")] = "",
    user: Annotated[str | None, Query(max_length=LONGEST_USER, description="a user key, u/name or c/client-id")] = None,
    topic: Annotated[str, Query(max_length=MAX_FILTER, description="a topic filter")] = "",
    seconds: Annotated[float, Query(gt=0, le=3600, alias="for", description="seconds")] = 60,
    payloads: Annotated[bool, Query(description="show payloads too")] = False,
) -> Response:
    """What one client, user or topic does on this node, as it happens: a JSON object a line. At least one of the three must be
    given, and all that are must match. For the operator."""
    if not (client or user or topic):
        raise Unprocessable("client, user or topic: one of them must say what is traced")
    if topic:
        try:
            validate_filter(topic)
        except ProtocolViolation as violation:
            raise Unprocessable(f"topic: {violation.text}") from violation
        if topic.startswith("$share/"):
            raise Unprocessable("topic: a filter without $share/: a trace shows what all members get")
    if len(api.server.tracer) >= MAX_TRACES:
        raise TooMany(f"{MAX_TRACES} traces run already", retry_after=5)
    made = Trace(client=client, user=checked_user(user) or "", topic=topic, payloads=payloads)
    lines = _lines(api, made, seconds, Lasting(api.authenticator, request, who))
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


async def _lines(api: Api, trace: Trace, seconds: float, caller: Lasting) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ends, beat = loop.time() + seconds, loop.time() + BEAT
    asked = {"client": trace.client, "user": trace.user, "topic": trace.topic}
    begun = {"event": "tracing", **{name: value for name, value in asked.items() if value}, "payloads": trace.payloads}
    log.warning("trace: begun for %g s: %s", seconds, dumps(begun).decode())
    api.server.tracer.begin(trace)
    try:
        yield dumps(begun) + b"\n"
        while (left := ends - loop.time()) > 0 and not api.stopping.is_set():
            await first_of(trace.news, api.stopping, min(left, CHECK))
            await caller.check()
            events = trace.taken()
            if events or loop.time() >= beat:
                yield b"".join(dumps(event) + b"\n" for event in events) or b"\n"
                beat = loop.time() + BEAT
        yield dumps({"event": "ended", "left_out": trace.left_out_in_all}) + b"\n"
    except Problem as problem:
        yield dumps({"event": "ended", "left_out": trace.left_out_in_all, "why": problem.detail}) + b"\n"
    finally:
        api.server.tracer.end(trace)
        log.warning("trace: ended, %d events were left out", trace.left_out_in_all)
