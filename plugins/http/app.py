"""The FastAPI application: its routes, its document and its page of documentation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
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
    figures,
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
from plugins.http.pages import Pages, contents, routes, served
from plugins.http.strict import V1, only_known

VERSION = "1"


def make(
    api: Api,
    scraped: probes.Scraped,
    extra: Iterable[APIRouter],
    pages: Sequence[Pages],
    *,
    hosts: Collection[str] | None,
    max_body: int,
    streamed: Collection[str],
    documented: Mapping[str, Any],
    origins: Origins,
) -> FastAPI:
    """The application over an `Api`; ``extra`` are routers of other plugins, ``pages`` theirs for people, and ``documented``
    what the OpenAPI document says of those of their routes that are plain, by path."""
    app = FastAPI(title="Tideline", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.api = api
    app.state.scraped = scraped
    app.state.figures = figures.Latest(scraped.metrics, api.server)
    own = (publishing, conversations, devices, sync, search, account, operation, figures, clients, bans, retained, diagnosis)
    for module in own:
        app.router.routes.extend(module.router.routes)
    for router in extra:
        app.include_router(router, prefix=V1, dependencies=[Depends(only_known)])
    app.include_router(probes.router)
    for page in pages:
        app.include_router(routes(page))
    errors.install(app)
    _document(app, documented)
    first = f"{pages[0].path}/" if pages else "/docs"

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(first)

    linked = {"/", "/docs", "/openapi.json", *(page.path + slash for page in pages for slash in ("", "/"))}
    app.add_middleware(
        Guard,
        hosts=hosts,
        max_body=max_body,
        linked=linked,
        streamed=streamed,
        origins=origins,
        rates=api.rates,
        counters=api.server.counters,
    )
    return app


def _document(app: FastAPI, more: Mapping[str, Any]) -> None:
    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
            for path, calls in more.items():
                schema["paths"].setdefault(path, {}).update(calls)
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

    documentation = contents(resources.files("plugins.http") / "page")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return served(request, documentation["docs.html"], "docs.html")

    @app.get("/docs.js", include_in_schema=False)
    async def script(request: Request) -> Response:
        return served(request, documentation["docs.js"], "docs.js")

    @app.get("/docs.css", include_in_schema=False)
    async def style(request: Request) -> Response:
        return served(request, documentation["docs.css"], "docs.css")


_ABOUT = (
    "History, sync and search of a Tideline broker. Errors are problem+json. Topics in paths are written as they are "
    "(/v1/conversations/home/kitchen/messages). Sequences start at 1 and have no gaps; times are milliseconds since 1970."
)
