"""The calls: tus 1.0 below ``/v1/attachments``, and the download at the same place.

They are plain routes, since their bodies are streams and their headers a protocol of its own. What OpenAPI has words for
of them is in `plugins.attachments.document`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Protocol

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from plugins.attachments import tus
from plugins.attachments.record import Record
from plugins.attachments.shelf import Shelf
from plugins.attachments.uploads import Uploads, Wanted
from plugins.http.api import Acting, Limit, api_of, caller, checked_user, responses
from plugins.http.auth import Lasting, acting_for
from plugins.http.models import Milliseconds
from plugins.http.rendering import tagged
from plugins.timelines import Who
from plugins.timelines.errors import Away, Unprocessable

PATH = "/attachments"
_METADATA = ("topic", "filename", "filetype", "name", "type")
"""What clients send; ``name`` and ``type`` are what some of them call the other two."""


class Attachments(Protocol):
    """The plugin; see there."""

    largest: int

    @property
    def uploads(self) -> Uploads: ...

    @property
    def shelf(self) -> Shelf: ...

    async def download(self, request: Request, who: Who) -> Response: ...


def make_router(plugin: Attachments) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter()
    calls = _Calls(plugin)
    router.add_route(PATH, calls.collection, methods=["OPTIONS", "POST"], include_in_schema=False)
    router.add_route(
        f"{PATH}/{{id}}", calls.one, methods=["OPTIONS", "GET", "HEAD", "PATCH", "DELETE"], include_in_schema=False
    )
    return router


class Attachment(BaseModel):
    """``offset`` is how many of the ``length`` bytes have come. ``message`` has it; until one does, it ``expires``."""

    id: str
    topic: str
    user: str
    filename: str
    filetype: str
    length: int
    offset: int
    created: Milliseconds
    expires: Milliseconds | None
    message: str | None


class AttachmentList(BaseModel):
    attachments: list[Attachment]
    next: str | None


def list_router(shelf: Shelf) -> APIRouter:
    """The calls about attachments, without their bytes."""
    router = APIRouter(tags=["attachments"])

    @router.get(PATH, response_model=AttachmentList, responses=responses())
    async def list_attachments(
        request: Request,
        who: Acting,
        after: Annotated[str, Query(max_length=64, description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """What I have uploaded, or upload, by id."""
        return tagged(request, await shelf.page(who, after, limit))

    @router.get(f"{PATH}/{{id}}/about", response_model=Attachment, responses=responses())
    async def read_attachment(request: Request, id: Annotated[str, Path(max_length=64)], who: Acting) -> Response:
        """An attachment that I may read or upload, without its bytes."""
        return tagged(request, await shelf.about(who, id))

    return router


class _Calls:
    def __init__(self, plugin: Attachments) -> None:
        self._plugin = plugin

    async def collection(self, request: Request) -> Response:
        """OPTIONS and POST."""
        if request.method == "OPTIONS":
            return self._options()
        return await self._create(request)

    async def one(self, request: Request) -> Response:
        """What is done with one attachment."""
        calls: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "GET": self._download,
            "HEAD": self._head,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }
        call = calls.get(request.method)
        return self._options() if call is None else await call(request)

    def _options(self) -> Response:
        about = {"Tus-Version": tus.VERSION, "Tus-Extension": tus.EXTENSIONS, "Tus-Max-Size": str(self._plugin.largest)}
        return Response(status_code=204, headers=_headers(about | {"Tus-Checksum-Algorithm": ",".join(tus.ALGORITHMS)}))

    async def _create(self, request: Request) -> Response:
        tus.check_version(request.headers.get("tus-resumable"))
        who = await _who(request)
        if "upload-defer-length" in request.headers:
            raise tus.Malformed("Upload-Defer-Length: the length must be known: send Upload-Length")
        length = tus.number("Upload-Length", request.headers.get("upload-length"))
        record = await self._plugin.uploads.create(who, _wanted(request, length))
        if request.headers.get("content-type", "") == tus.CONTENT_TYPE:
            record = await self._take(request, who, record, 0)
        location = f"{request.url.path.rstrip('/')}/{record.id}"
        return Response(status_code=201, headers=_headers({"Location": location, **_offset(record)}))

    async def _head(self, request: Request) -> Response:
        """Where an upload is, or what a download would be."""
        if "tus-resumable" not in request.headers:
            return await self._download(request)
        tus.check_version(request.headers.get("tus-resumable"))
        record = await self._own(request, await _who(request))
        headers = {"Upload-Length": str(record.length), "Cache-Control": "no-store", **_offset(record)}
        return Response(status_code=200, headers=_headers(headers))

    async def _patch(self, request: Request) -> Response:
        tus.check_version(request.headers.get("tus-resumable"))
        if request.headers.get("content-type", "") != tus.CONTENT_TYPE:
            raise tus.Unsupported(f"send the bytes as Content-Type: {tus.CONTENT_TYPE}")
        offset = tus.number("Upload-Offset", request.headers.get("upload-offset"))
        who = await _who(request)
        record = await self._take(request, who, await self._own(request, who), offset)
        return Response(status_code=204, headers=_headers(_offset(record)))

    async def _take(self, request: Request, who: Who, record: Record, offset: int) -> Record:
        header = request.headers.get("upload-checksum")
        checksum = tus.Checksum(header) if header is not None else None
        size = tus.number("Content-Length", request.headers.get("content-length", "0"))
        try:
            ending = api_of(request).stopping
            return await self._plugin.uploads.take(record, offset, _body(request, who), size, checksum, ending)
        except ClientDisconnect:
            raise Away("the connection broke; what came is kept") from None

    async def _delete(self, request: Request) -> Response:
        tus.check_version(request.headers.get("tus-resumable"))
        await self._plugin.shelf.remove(await _who(request), request.path_params["id"])
        return Response(status_code=204, headers=_headers({}))

    async def _download(self, request: Request) -> Response:
        return await self._plugin.download(request, await _who(request))

    async def _own(self, request: Request, who: Who) -> Record:
        return await self._plugin.uploads.own(who, request.path_params["id"])


async def _who(request: Request) -> Who:
    """Who calls. Raises `Unprocessable` for a query parameter that nobody would look at."""
    for name, _ in request.query_params.multi_items():
        if name != "user":
            raise Unprocessable(f"query parameter {name[:40]!r}: not known; there is user")
    return acting_for(await caller(request), checked_user(request.query_params.get("user")))


def _wanted(request: Request, length: int) -> Wanted:
    found = tus.metadata(request.headers.get("upload-metadata", ""))
    tus.known_only(found, _METADATA)
    if not found.get("topic"):
        raise Unprocessable("Upload-Metadata: topic is missing: the topic to which the message goes")
    return Wanted(
        found["topic"],
        length,
        found.get("filename") or found.get("name", ""),
        found.get("filetype") or found.get("type", ""),
    )


async def _body(request: Request, who: Who) -> AsyncIterator[bytes]:
    """What comes, as long as the caller would be let in."""
    caller = Lasting(api_of(request).authenticator, request, who)
    async for data in request.stream():
        await caller.check()
        yield data


def _offset(record: Record) -> dict[str, str]:
    expires = {} if record.message else {"Upload-Expires": tus.date(record.expires)}
    return {"Upload-Offset": str(record.offset), **expires}


def _headers(more: dict[str, str]) -> dict[str, str]:
    return {"Tus-Resumable": tus.VERSION, "X-Content-Type-Options": "nosniff", **more}
