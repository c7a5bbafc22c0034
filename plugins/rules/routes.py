"""Routes: how the rules do, for the operator."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Operator, responses
from plugins.http.rendering import tagged


class RuleState(BaseModel):
    """Counts of this node since it started. ``delivered`` and ``error`` are its webhook's (docs/webhooks.md)."""

    name: str
    topics: list[str]
    matched: int
    faults: int
    not_json: int
    republished: int
    refused: int
    loops: int
    delivered: int
    error: str | None


class RuleList(BaseModel):
    rules: list[RuleState]


class Rules(Protocol):
    """The plugin; see there."""

    def states(self) -> list[dict[str, Any]]: ...


def make_router(plugin: Rules) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter(tags=["rules"])

    @router.get("/rules", response_model=RuleList, responses=responses())
    async def list_rules(request: Request, who: Operator) -> Response:
        """How each rule does on this node. For the operator."""
        return tagged(request, {"rules": plugin.states()})

    return router
