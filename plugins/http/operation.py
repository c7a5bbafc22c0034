"""Routes: what the operator does with the running broker."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from broker.connection import NoSuchNode
from plugins.http.api import ApiDep, Operator, responses
from plugins.http.models import Body, Milliseconds
from plugins.http.rendering import reply, tagged
from plugins.http.strict import router_of
from plugins.timelines import NotFound

router = router_of("operation")

_ALONE = "this broker's storage serves one node: there is no cluster"


class ReloadBody(Body):
    """Nothing has to be said."""


class ReloadOutcome(BaseModel):
    """What was reloaded, what was wrong (there everything is as it was), and which settings wait for the next start."""

    reloaded: list[str]
    failed: list[str]
    needs_restart: list[str]


class ClusterNode(BaseModel):
    """A node. ``beat_age`` is in milliseconds, ``lag`` in changes of who is where that it has not applied; ``me`` is the node
    that was asked."""

    number: int
    token: int
    name: str
    state: Literal["up", "leaving", "dead"]
    sessions: int
    beat_age: int
    routes: int
    lag: int
    started: Milliseconds
    features: int
    me: bool


class ClusterNodes(BaseModel):
    nodes: list[ClusterNode]


class LeaveBody(Body):
    """Nothing has to be said."""


@router.get("/cluster", response_model=ClusterNodes, responses=responses())
async def cluster(request: Request, api: ApiDep, who: Operator) -> Response:
    """The nodes that serve the same data: state, sessions, age of the last beat, and how far each is. For the operator."""
    nodes = await api.timelines.carried_out(api.server.cluster())
    if nodes is None:
        raise NotFound(_ALONE)
    return tagged(request, {"nodes": [node._asdict() for node in nodes]})


@router.post("/cluster/{node:path}/leave", response_model=ClusterNode, status_code=202, responses=responses())
async def leave(
    node: Annotated[str, Path(max_length=200)], api: ApiDep, who: Operator, body: LeaveBody | None = None
) -> Response:
    """Have a node, by its number or name, tell its clients to use another server, and end when they have gone. `me` is the one
    that answers. For the operator."""
    try:
        found = await api.timelines.carried_out(api.server.leave("" if node == "me" else node))
    except NoSuchNode as error:
        raise NotFound(str(error)) from error
    if found is None:
        raise NotFound(_ALONE)
    return reply(found._asdict(), 202)


@router.post("/reload", response_model=ReloadOutcome, responses=responses())
async def reload(api: ApiDep, who: Operator, body: ReloadBody | None = None) -> Response:
    """Read users, access rules, certificates and log settings again. For the operator."""
    report = await api.server.reload()
    return reply({"reloaded": report.done, "failed": report.failed, "needs_restart": report.restart})
