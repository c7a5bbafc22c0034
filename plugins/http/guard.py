"""What no request gets past: a wrong Host (DNS rebinding), another site's page in a browser unless `origins` lists it, a path
or query that is not UTF-8, a body that is too large, and more requests than one address may make.

State is changed by JSON only, which a page of another site cannot send without asking first, and only those that are listed are
answered yes (CORS; `answers_origins`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.config import Origins, refusal
from broker.counters import Counters
from broker.rate_limited_log import RateLimitedLog
from plugins.http.errors import answer
from plugins.http.probes import PROBES
from plugins.http.rates import Rates
from plugins.timelines import Problem

log = RateLimitedLog(logging.getLogger(__name__), 10.0)

_SAFE = {"GET", "HEAD", "OPTIONS"}
_NOT_FOR_HEAD = {"/v1/sync", "/v1/trace"}  # the one claims a device, and both may stream


class Guard:
    """ASGI middleware. ``hosts`` are the names that may be called by beside the machine's own; None is any. ``linked`` are the
    paths of pages, to which other sites may have links; ``streamed`` those below which routes see to bodies themselves."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,
        max_body: int,
        linked: Collection[str],
        streamed: Collection[str],
        origins: Origins,
        rates: Rates,
        counters: Counters,
    ) -> None:
        self._app = app
        self._linked = linked
        self._streamed = tuple(streamed)
        self._origins = origins
        self._rates = rates
        self._counters = counters
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and self._origins.lists(origin):
            await answers_origin(self._inside, origin)(scope, receive, send)
        else:
            await self._inside(scope, receive, send)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client is not None and (seconds := self._rates.address(client[0])):
            later = answer(
                429, "too-many", "too many at once", "more requests a second than an address may make", _after(seconds)
            )
            await later(scope, receive, send)
            return
        refused = self._refusal(scope, Headers(scope=scope))
        if refused is not None:
            await answer(*refused)(scope, receive, send)
            return
        if scope["method"] == "HEAD" and scope["path"] not in _NOT_FOR_HEAD and not self._streams(scope["path"]):
            scope = {**scope, "method": "GET"}  # uvicorn, which has the method, sends the headers alone
        await self._bounded(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and scope["path"] not in PROBES and not self._ours(_hostname(host)):
            return 421, "host", "wrong host", f"host {host[:80]!r} is not one of ours; config names them under http: hosts"
        path, method = scope["path"], scope["method"]
        for part, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
            if (wrong := _not_utf8(raw)) is not None:
                return 422, "invalid", "a value is not valid", f"{part}: {wrong!r} is not UTF-8, percent-encoded"
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        origin = headers.get("origin")
        if origin is not None:
            foreign = not self._origins.lists(origin) and (foreign or origin.partition("://")[2] != host)
        if foreign and not (method == "GET" and path in self._linked):
            why = "pages of other sites may not call this API" if origin is None else refusal(origin)
            log.warning("http: %s", why, key=origin)
            return 403, "cross-site", "another site's page", why
        if self._streams(path):
            return None
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self._max_body:
            self._counters.limit_http_body += 1
            return 413, "too-large", "too large", f"a body has at most {self._max_body} bytes"
        if method not in _SAFE and (length != "0" or "transfer-encoding" in headers):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, "media-type", "not JSON", "send the body as Content-Type: application/json"
        elif method == "POST" and "content-type" not in headers:  # the others no page sends without asking
            return 415, "media-type", "not JSON", "send a body as Content-Type: application/json"
        return None

    def _streams(self, path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in self._streamed)

    def _ours(self, host: str) -> bool:
        if host in ("localhost", *(self._hosts or ())):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, streams = 0, self._streams(scope["path"])

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body and not streams:
                self._counters.limit_http_body += 1
                raise TooLong(413, f"a body has at most {self._max_body} bytes")
            return message

        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, limited, noted)
        except RuntimeError as error:
            # So Starlette tells of a problem that comes up when an answer has begun. The rest is kept back: uvicorn closes the
            # connection, by which the client knows that the answer is not whole.
            if not (started and isinstance(error.__cause__, Problem)):
                raise
            log.warning(
                "http: an answer to %s was broken off: %s", scope["path"][:200], error.__cause__.detail, key=scope["path"]
            )
        except asyncio.CancelledError:  # uvicorn cancels what has not ended when the broker has to
            if started:
                raise
            stopping = answer(503, "stopping", "the broker stops", "the answer did not come before the broker had to stop")
            await stopping(scope, receive, send)


_ASKED = ("authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "if-range", "last-event-id", "range")
_TOLD = ("etag", "x-content-type", "retry-after", "www-authenticate", "location", "content-range", "content-disposition")
_TUS_ASKED = ("tus-resumable", "upload-length", "upload-metadata", "upload-offset", "upload-checksum")
_TUS_TOLD = (
    *("tus-resumable", "tus-version", "tus-extension", "tus-max-size", "tus-checksum-algorithm"),
    *("upload-length", "upload-offset", "upload-expires"),
)


def answers_origin(app: ASGIApp, origin: str) -> ASGIApp:
    """The app as pages of this origin may use it: asked first by the browser (preflight), and read."""
    return CORSMiddleware(
        app,
        allow_origins=[origin],
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[*_ASKED, *_TUS_ASKED],
        expose_headers=[*_TOLD, *_TUS_TOLD],
    )


class TooLong(HTTPException):
    """A body passed its limit, and had not said its length."""


def _after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def _not_utf8(raw: bytes) -> str | None:
    """The percent-encoded bytes that are no UTF-8 (``%E9``), or None: what stands in their place would be another topic."""
    data = unquote_to_bytes(raw)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "".join(f"%{byte:02X}" for byte in data[error.start : error.end])
    return None


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
