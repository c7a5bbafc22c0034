"""JSON out, with an entity tag where the caller may have it already."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plugins.timelines import Unprocessable


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON; what UTF-8 cannot hold (lone surrogates) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response that no cache keeps."""
    return Response(dumps(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def tagged(request: Request, value: Any) -> Response:
    """The same with an entity tag; 304 where the caller has this very answer."""
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
    return unless_known(request, dumps(value), "application/json", headers)


def unless_known(request: Request, body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """A body with an entity tag; 304 where the caller has it."""
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, **headers}
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type)


def cursor_of(place: str | None) -> str | None:
    """A place in a list, as callers are given it and give it back; None at the end."""
    return base64.urlsafe_b64encode(place.encode()).decode() if place else None


def place_of(cursor: str) -> str:
    """The other way round. Raises `Unprocessable`."""
    try:
        return base64.b64decode(cursor, b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unprocessable(f"after {cursor[:40]!r} is not one of ours") from None
