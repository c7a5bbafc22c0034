"""The route by which the operator sees how those do who follow all that is stored (`plugins.following`)."""

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


def states_router(plugin: FollowingPlugin[Any], listed: type[BaseModel]) -> APIRouter:
    """``GET /v1/<kind>s``. ``listed`` has one field: a list of what `FollowingPlugin.anywhere` tells."""
    name = f"{plugin.kind}s"
    (field,) = listed.model_fields
    router = APIRouter(tags=[name])

    async def states(request: Request, who: Operator) -> Response:
        found = await plugin.anywhere()
        if found is None:
            raise Away(f"the broker is starting, or the node that runs the {name} does not answer", retry_after=1)
        return tagged(request, {field: found})

    about = f"How each {plugin.kind} does. For the operator."
    router.add_api_route(f"/{name}", states, name=name, description=about, response_model=listed, responses=responses())
    return router
