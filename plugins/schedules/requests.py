"""Scheduled messages by `$sync/request`: the same as over HTTP, with the same fields."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from broker.hooks import Request
from plugins.http.errors import said
from plugins.http.publishing import draft_of
from plugins.schedules.routes import NewSchedule, Service, when_of
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind
from plugins.timelines import Unprocessable, Who

_FIELDS = tuple(NewSchedule.model_fields)


def kinds(service: Service) -> dict[str, Kind]:
    """What may be asked."""

    async def schedule(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        try:
            body = NewSchedule.model_validate(asked.given(_FIELDS))
        except ValidationError as error:
            found = [said({**finding, "loc": ("request", *finding["loc"])}, _FIELDS) for finding in error.errors()[:3]]
            raise Unprocessable("; ".join(found)) from error
        draft = draft_of(body.topic, body, body.message_id or "", device=request.device.client_id)
        shown, new = await service.schedule(who, draft, when_of(body))
        return {"schedule": shown, "new": new}

    async def schedules(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await service.listed(who.user, asked.text("after", ""), asked.limit())

    async def scheduled(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return {"schedule": await service.one(who.user, asked.text("schedule"))}

    async def cancel(who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        id = asked.text("schedule")
        await service.cancel(who.user, id)
        return {"cancelled": id}

    return {
        "schedule": Kind(schedule, _FIELDS),
        "schedules": Kind(schedules, ("after", "limit")),
        "scheduled": Kind(scheduled, ("schedule",)),
        "cancel-schedule": Kind(cancel, ("schedule",)),
    }
