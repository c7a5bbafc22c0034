"""What no request gets past: a wrong Host (DNS rebinding), another site's page in a browser, a path or query that is not
UTF-8, and a body that is too large.

State is changed by JSON only, which a page of another site cannot send without asking first, and it is never answered yes.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plugins.http.errors import answer

_SAFE = {"GET", "HEAD", "OPTIONS"}
_NOT_FOR_HEAD = {"/v1/sync"}  # its GET claims a device, and may stream
_PAGES = {"/", "/docs", "/openapi.json"}


class Guard:
    """ASGI middleware. ``hosts`` are the names that may be called by beside the machine's own; None is any."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, max_body: int) -> None:
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await answer(*refusal)(scope, receive, send)
            return
        if scope["method"] == "HEAD" and scope["path"] not in _NOT_FOR_HEAD:
            scope = {**scope, "method": "GET"}  # uvicorn, which has the method, sends the headers alone
        await self._bounded(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and not self._ours(_hostname(host)):
            return 421, "host", "wrong host", f"host {host[:80]!r} is not one of ours; config names them under http: hosts"
        path, method = scope["path"], scope["method"]
        for part, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
            if (wrong := _not_utf8(raw)) is not None:
                return 422, "invalid", "a value is not valid", f"{part}: {wrong!r} is not UTF-8, percent-encoded"
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            foreign = True
        if foreign and not (method == "GET" and path in _PAGES):
            return 403, "cross-site", "another site's page", "pages of other sites may not call this API"
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self._max_body:
            return 413, "too-large", "too large", f"a body has at most {self._max_body} bytes"
        if method not in _SAFE and (length != "0" or "transfer-encoding" in headers):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, "media-type", "not JSON", "send the body as Content-Type: application/json"
        elif method in ("POST", "PUT", "PATCH") and "content-type" not in headers:
            return 415, "media-type", "not JSON", "send a body as Content-Type: application/json"
        return None

    def _ours(self, host: str) -> bool:
        if host in ("localhost", *(self._hosts or ())):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise TooLong(413, f"a body has at most {self._max_body} bytes")
            return message

        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, limited, noted)
        except asyncio.CancelledError:  # uvicorn cancels what has not ended when the broker has to
            if started:
                raise
            stopping = answer(503, "stopping", "the broker stops", "the answer did not come before the broker had to stop")
            await stopping(scope, receive, send)


class TooLong(HTTPException):
    """A body passed its limit, and had not said its length."""


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
