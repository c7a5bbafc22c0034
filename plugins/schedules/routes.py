"""Routes: scheduled messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Acting, Limit, responses
from plugins.http.models import MAX_INT, Milliseconds, NewTopicMessage, moment
from plugins.http.publishing import draft_of, key_of
from plugins.http.rendering import reply, tagged
from plugins.schedules.when import When
from plugins.timelines import Unprocessable, Who
from plugins.timelines.publishing import Draft

Id = Annotated[str, Path(min_length=1, max_length=16, description="the schedule's id")]


def _milliseconds(value: object) -> object:
    return moment("at", value) if isinstance(value, str) else value


class NewSchedule(NewTopicMessage):
    """A message to publish later: with one of `delay`, `at` and `schedule`. Its `expiry` counts from then."""

    delay: Annotated[float | None, Field(ge=0, le=1e10)] = None
    """Seconds from now."""
    at: Annotated[
        int | None, Field(ge=0, le=MAX_INT), BeforeValidator(_milliseconds, json_schema_input_type=int | str | None)
    ] = None
    """When: milliseconds since 1970, or an RFC 3339 time with a zone."""
    schedule: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """Again and again: an interval ("6h") or a cron line of five fields ("0 9 * * 1-5")."""
    timezone: Annotated[str, Field(max_length=64)] = ""
    """The time zone of a cron line, such as Europe/Berlin; the broker's where it is left out."""


def when_of(body: NewSchedule) -> When:
    """When it is to be published."""
    return When(body.delay, body.at, body.schedule, body.timezone)


class Scheduled(BaseModel):
    """``due`` is when it is published next, ``expiry`` the seconds that it then lives (null: for ever). ``held``: its sender is
    shut out at the moment (disabled, deleted or banned), and nothing of it is published until that has ended."""

    id: str
    due: Milliseconds
    schedule: str | None
    timezone: str | None
    held: bool
    expiry: int | None
    topic: str
    sender: str
    device: str
    qos: int
    retain: bool
    content_type: str | None
    properties: list[list[str]]
    encoding: Literal["text", "json", "base64"]
    payload: Any


class ScheduleList(BaseModel):
    schedules: list[Scheduled]
    next: str | None


class Service(Protocol):
    """See `plugins.schedules.service.Schedules`."""

    async def schedule(self, who: Who, draft: Draft, wanted: When) -> tuple[dict[str, Any], bool]: ...

    async def listed(self, user: str, after: str, limit: int) -> dict[str, Any]: ...

    async def all(self, after: str, limit: int) -> dict[str, Any]: ...

    async def one(self, user: str, id: str) -> dict[str, Any]: ...

    async def cancel(self, user: str, id: str) -> None: ...


def make_router(service: Service) -> APIRouter:
    """The routes over the service."""
    router = APIRouter(tags=["schedules"])

    @router.post(
        "/schedules",
        response_model=Scheduled,
        status_code=201,
        responses={**responses(), 200: {"model": Scheduled, "description": "it waits already, under this key"}},
    )
    async def schedule(
        body: NewSchedule,
        who: Acting,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> Response:
        """Publish a message later, or again and again. 201: it is kept as durably as a message.

        With `message_id`, or an `Idempotency-Key`, a repeat changes nothing while the first one waits.
        """
        key = key_of(idempotency_key) or body.message_id or ""
        if idempotency_key is not None and body.message_id not in (None, key):
            raise Unprocessable("Idempotency-Key and message_id differ: one of them is enough")
        shown, new = await service.schedule(who, draft_of(body.topic, body, key), when_of(body))
        return reply(shown, 201 if new else 200, {"Location": f"/v1/schedules/{shown['id']}"})

    @router.get("/schedules", response_model=ScheduleList, responses=responses())
    async def list_schedules(
        request: Request,
        who: Acting,
        after: Annotated[str, Query(max_length=100, description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """My messages that wait, by id; to an operator who acts for nobody, those of all users, by when they are due."""
        everybody = who.operator and who.user.startswith("b/")
        return tagged(request, await (service.all(after, limit) if everybody else service.listed(who.user, after, limit)))

    @router.get("/schedules/{schedule_id}", response_model=Scheduled, responses=responses())
    async def read_schedule(request: Request, schedule_id: Id, who: Acting) -> Response:
        """A message of mine that waits."""
        return tagged(request, await service.one(who.user, schedule_id))

    @router.delete("/schedules/{schedule_id}", status_code=204, response_class=Response, responses=responses())
    async def cancel_schedule(schedule_id: Id, who: Acting) -> Response:
        """Cancel it: once this answers it is not published any more. 409 where it is just being published."""
        await service.cancel(who.user, schedule_id)
        return Response(status_code=204)

    return router
