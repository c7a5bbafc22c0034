"""Giving an attachment to who may read the conversation: whole, or a range of it (RFC 9110, 14)."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from plugins.attachments.pieces import Pieces, PiecesAway
from plugins.attachments.record import Record
from plugins.http.auth import Lasting
from plugins.timelines.errors import Away

log = logging.getLogger(__name__)

_AT_ONCE = 1 << 20
"""Bytes that are read at once."""
_ANY = "application/octet-stream"
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Span(NamedTuple):
    """From ``start`` up to ``end``, which is not part of it."""

    start: int
    end: int


async def response(request: Request, record: Record, pieces: Pieces, caller: Lasting) -> Response:
    """The attachment as this request wants it; broken off where its caller is shut out meanwhile.

    Raises `Away` where its first bytes cannot be had: once an answer has begun it can only break off.
    """
    tag = f'"{record.id}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": _disposition(record.name),
    }
    if tag in _tags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range", "")
    span: Span | None = Span(0, record.length)
    if wanted and request.headers.get("if-range", tag) == tag:
        span = span_of(wanted, record.length)
    if span is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{record.length}"})
    headers["Content-Length"] = str(span.end - span.start)
    partial = span != Span(0, record.length)
    if partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{record.length}"
    media_type = record.type if _TYPE.fullmatch(record.type) else _ANY
    body = _bytes(record, pieces, span, caller)
    try:
        first = await anext(body, b"")
    except PiecesAway as error:
        log.warning("attachment %s cannot be given: %s", record.id, error)
        raise Away("where attachments are kept does not give this one now", retry_after=5) from error
    return StreamingResponse(_after(first, body), 206 if partial else 200, headers, media_type)


def span_of(header: str, length: int) -> Span | None:
    """The one range that is asked for; all where it is not understood, or several are; None where there is nothing there."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return Span(0, length)
    if not match[1]:
        last = min(int(match[2]), length)
        return Span(length - last, length) if last else None
    start, end = int(match[1]), min(int(match[2]) + 1, length) if match[2] else length
    if match[2] and int(match[2]) < start:
        return Span(0, length)
    return Span(start, end) if start < length else None


async def _bytes(record: Record, pieces: Pieces, span: Span, caller: Lasting) -> AsyncIterator[bytes]:
    at = 0
    for name, size in record.pieces:
        start, end = max(span.start - at, 0), min(span.end - at, size)
        while start < end:
            await caller.check()
            data = await pieces.get(name, start, min(start + _AT_ONCE, end))
            if not data:
                raise PiecesAway(f"piece {name} is shorter than it was")
            yield data
            start += len(data)
        at += size


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _disposition(name: str) -> str:
    """Always a download; the name is what a caller gave, so that everything but letters and digits is encoded (RFC 8187)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}" if name else "attachment"
