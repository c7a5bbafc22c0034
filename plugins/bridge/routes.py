"""Routes: how the bridges do, for the operator."""

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


class BridgeState(BaseModel):
    """Counts are since the node that runs the bridges began to. ``refused`` is what one side would not take, ``loops`` what was
    here before, ``dropped`` what came with QoS 0 and was too much; ``error`` is why it is not connected."""

    name: str
    connected: bool
    sent: int
    received: int
    refused: int
    loops: int
    dropped: int
    error: str | None


class BridgeList(BaseModel):
    bridges: list[BridgeState]


def make_router(plugin: FollowingPlugin[Any]) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter(tags=["bridges"])

    @router.get("/bridges", response_model=BridgeList, responses=responses())
    async def list_bridges(request: Request, who: Operator) -> Response:
        """How each bridge does. For the operator."""
        bridges = await plugin.anywhere()
        if bridges is None:
            raise Away("the broker is starting, or the node that runs the bridges does not answer", retry_after=1)
        return tagged(request, {"bridges": bridges})

    return router
