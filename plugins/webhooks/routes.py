"""Routes: how the webhooks do, for the operator."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from plugins.following import FollowingPlugin
from plugins.http.api import Operator, responses
from plugins.http.rendering import tagged
from plugins.timelines.errors import Away


class HookState(BaseModel):
    """Counts are since the node that runs the hooks began to. ``error`` is why the last attempt failed; null if it did not."""

    name: str
    events: list[str]
    delivered: int
    requests: int
    failures: int
    dead: int
    error: str | None


class HookList(BaseModel):
    hooks: list[HookState]


def make_router(plugin: FollowingPlugin[Any]) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter(tags=["webhooks"])

    @router.get("/webhooks", response_model=HookList, responses=responses())
    async def list_hooks(request: Request, who: Operator) -> Response:
        """How each webhook does. For the operator."""
        hooks = await plugin.anywhere()
        if hooks is None:
            raise Away("the broker is starting, or the node that runs the webhooks does not answer", retry_after=1)
        return tagged(request, {"hooks": hooks})

    return router
