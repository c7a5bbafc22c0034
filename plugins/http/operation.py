"""Routes: what the operator does with the running broker."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from plugins.http.api import ApiDep, Operator, responses
from plugins.http.models import Body
from plugins.http.rendering import reply

router = APIRouter(tags=["operation"])


class ReloadBody(Body):
    """Nothing has to be said."""


class Told(BaseModel):
    """What was reloaded, what was wrong (there everything is as it was), and which settings wait for the next start."""

    reloaded: list[str]
    failed: list[str]
    needs_restart: list[str]


@router.post("/reload", response_model=Told, responses=responses())
async def reload(api: ApiDep, who: Operator, body: ReloadBody | None = None) -> Response:
    """Read users, access rules, certificates and log settings again. For the operator."""
    report = await api.server.reload()
    return reply({"reloaded": report.done, "failed": report.failed, "needs_restart": report.restart})
