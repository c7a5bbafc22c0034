"""Pages for people: files of a package, served as they are. They hold no data; what they show comes from the API.

- They load nothing from elsewhere, and no script or style that is not a file of theirs: `Content-Security-Policy` says so to
  the browser.
- What a browser has already is not sent again (`ETag`), and always asked about, so that an update holds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from plugins.http.rendering import unless_known

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {}; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


def nowhere(request: Request) -> Sequence[str]:
    """A page that connects to nobody but this API."""
    return ()


class Pages(NamedTuple):
    """The files of ``package``'s ``folder``, below ``path``, where ``index.html`` is what the path itself shows.

    ``connects`` gives the sources (CSP) that the page may connect to beside this API; ``extra`` are routes of its own.
    """

    path: str
    package: str
    folder: str
    connects: Callable[[Request], Sequence[str]] = nowhere
    extra: APIRouter | None = None


def add_pages(context: Any, pages: Pages) -> None:
    """Serve these pages beside the API: for another plugin's ``__init__``. The first one's path is where ``/`` leads."""
    context.shared.setdefault("http pages", []).append(pages)


def routes(pages: Pages) -> APIRouter:
    """What serves them. The files are read once, now."""
    files = contents(resources.files(pages.package) / pages.folder)
    router = APIRouter(include_in_schema=False)
    if pages.extra is not None:
        router.include_router(pages.extra)

    @router.get(pages.path)
    async def into() -> Response:
        return RedirectResponse(f"{pages.path}/")

    @router.get(pages.path + "/{name:path}")
    async def file(request: Request, name: str) -> Response:
        name = name or "index.html"
        if name not in files:
            raise HTTPException(404)
        return served(request, files[name], name, pages.connects(request))

    return router


def contents(folder: Traversable, below: str = "") -> dict[str, bytes]:
    """The files in a folder and those below it, by their path there."""
    found: dict[str, bytes] = {}
    for one in folder.iterdir():
        if one.is_dir():
            found |= contents(one, f"{below}{one.name}/")
        elif one.name.rpartition(".")[2] in _TYPES:
            found[below + one.name] = one.read_bytes()
    return found


def served(request: Request, body: bytes, name: str, connects: Sequence[str] = ()) -> Response:
    """A file as an answer."""
    headers = {
        "Content-Security-Policy": _POLICY.format(" ".join(("'self'", *connects))),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return unless_known(request, body, _TYPES[name.rpartition(".")[2]], headers)
