"""Routes: what `/metrics` tells, as JSON, for who draws it."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import Services
from plugins.http.api import Operator, responses
from plugins.http.models import Milliseconds
from plugins.http.rendering import dumps
from plugins.http.strict import router_of
from plugins.metrics import Metrics

router = router_of("operation")


class Figure(BaseModel):
    """One number, by its Prometheus name and labels."""

    name: str
    labels: dict[str, str]
    value: float


class Figures(BaseModel):
    """All at a moment."""

    time: Milliseconds
    figures: list[Figure]


class Latest:
    """The figures as they were at most ``AGE`` seconds ago, so that many consoles cost what one does."""

    AGE = 1.0

    def __init__(self, metrics: Metrics, server: Services) -> None:
        self._metrics = metrics
        self._server = server
        self._turn = asyncio.Lock()
        self._body = b""
        self._until = 0.0

    async def body(self) -> bytes:
        """As JSON."""
        now = asyncio.get_running_loop().time
        async with self._turn:
            if now() >= self._until:
                time, found = self._server.wall(), await self._metrics.samples()
                told = {"time": time, "figures": [one._asdict() for one in found]}
                self._body = await asyncio.to_thread(dumps, told)
                self._until = now() + self.AGE
            return self._body


@router.get("/metrics", response_model=Figures, responses=responses())
async def figures(request: Request, who: Operator) -> Response:
    """The metrics of the node that answers, the same as `/metrics` has for Prometheus. For the operator.

    They are of `time`, a second ago at most: whoever else asks meanwhile is told the same.
    """
    latest: Latest = request.app.state.figures
    return Response(await latest.body(), 200, {"Cache-Control": "no-store"}, "application/json")
