"""Routes: what `/metrics` tells, as JSON, for who draws it."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import ApiDep, Operator, responses
from plugins.http.models import Milliseconds
from plugins.http.probes import Scraped
from plugins.http.rendering import reply
from plugins.http.strict import router_of

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


@router.get("/metrics", response_model=Figures, responses=responses())
async def figures(request: Request, api: ApiDep, who: Operator) -> Response:
    """The metrics of the node that answers, the same as `/metrics` has for Prometheus. For the operator."""
    scraped: Scraped = request.app.state.scraped
    found = await scraped.metrics.samples()
    return reply({"time": api.server.wall(), "figures": [one._asdict() for one in found]})
