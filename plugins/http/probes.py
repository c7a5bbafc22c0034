"""Routes beside the API, for machines: the metrics, and whether the broker lives and is ready. Plain text."""

from __future__ import annotations

import hmac
from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from plugins.http.api import ApiDep, api_of
from plugins.metrics import Metrics
from plugins.timelines import Forbidden

Access = Literal["local", "open", "operator"]

PROBES = {"/healthz", "/readyz"}
"""What whoever reaches the port may ask by any host name: it says nothing but yes or no."""

router = APIRouter(include_in_schema=False)


class Scraped:
    """The metrics, and who may read them: everybody where it is ``open``, else the operator, and whoever has the ``token``."""

    def __init__(self, metrics: Metrics, *, open: bool, token: str) -> None:
        self.metrics = metrics
        self._open = open
        self._token = token.encode()

    async def check(self, request: Request) -> None:
        """Raises `Unauthorized` or `Forbidden`."""
        if self._open:
            return
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if self._token and scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), self._token):
            return
        who = await api_of(request).authenticator.who(request)
        if not who.operator:
            raise Forbidden("the metrics are for the operator, and for whoever sends the metrics_token (docs/metrics.md)")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Everything that Prometheus scrapes."""
    scraped: Scraped = request.app.state.scraped
    await scraped.check(request)
    body, content_type = await scraped.metrics.text(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


@router.get("/healthz")
async def healthz() -> Response:
    """The process lives, and its event loop runs. Who kills what does not answer needs no more."""
    return _plain("ok", 200)


@router.get("/readyz")
async def readyz(api: ApiDep) -> Response:
    """Whether clients should come here, as `/v1/health` says."""
    why = api.server.status().not_ready
    return _plain(why or "ready", 503 if why else 200)


def _plain(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status, {"Cache-Control": "no-store"})
