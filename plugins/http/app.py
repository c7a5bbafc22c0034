"""The FastAPI application: its routes, its document and its page of documentation."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import resources
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import RedirectResponse, Response

from broker.config import Origins
from plugins.http import (
    account,
    bans,
    clients,
    conversations,
    devices,
    diagnosis,
    errors,
    operation,
    probes,
    publishing,
    retained,
    search,
    sync,
)
from plugins.http.api import Api
from plugins.http.guard import Guard
from plugins.http.models import ProblemDocument
from plugins.http.strict import only_known

VERSION = "1"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def make(
    api: Api,
    scraped: probes.Scraped,
    extra: Iterable[APIRouter],
    *,
    hosts: Collection[str] | None,
    max_body: int,
    origins: Origins,
) -> FastAPI:
    """The application over an `Api`; ``extra`` are routers of other plugins."""
    app = FastAPI(title="Tideline", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.api = api
    app.state.scraped = scraped
    own = (publishing, conversations, devices, sync, search, account, operation, clients, bans, retained, diagnosis)
    for router in (*(module.router for module in own), *extra):
        app.include_router(router, prefix="/v1", dependencies=[Depends(only_known)])
    app.include_router(probes.router)
    errors.install(app)
    _document(app)
    app.add_middleware(Guard, hosts=hosts, max_body=max_body, origins=origins, rates=api.rates, counters=api.server.counters)
    return app


def _document(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {})["ProblemDocument"] = ProblemDocument.model_json_schema()
            components["securitySchemes"] = {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
            for operation in (call for path in schema["paths"].values() for call in path.values()):
                operation["summary"] = operation["description"].partition("\n")[0].partition(". ")[0].removesuffix(".")
            schema["security"] = [{"basic": []}, {"bearer": []}, {}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        from plugins.http.rendering import reply

        return reply(app.openapi())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _asset("docs.html", "text/html; charset=utf-8")

    @app.get("/docs.js", include_in_schema=False)
    async def script() -> Response:
        return _asset("docs.js", "text/javascript; charset=utf-8")

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return _asset("docs.css", "text/css; charset=utf-8")


def _asset(name: str, media_type: str) -> Response:
    body = (resources.files("plugins.http") / "page" / name).read_bytes()
    return Response(body, media_type=media_type, headers=_PAGE_HEADERS)


_ABOUT = (
    "History, sync and search of a Tideline broker. Errors are problem+json. Topics in paths are written as they are "
    "(/v1/conversations/home/kitchen/messages). Sequences start at 1 and have no gaps; times are milliseconds since 1970."
)
