"""Routes: what a device has not done yet, pulled, long-polled or streamed, and its acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from plugins.http.api import Api, ApiDep, Caller, Limit, device_key, responses
from plugins.http.models import MAX_INT, AckBody, Inbox, Offset
from plugins.http.rendering import dumps, reply
from plugins.timelines import Conflict, Problem, Who
from storage.records import DeviceKey

router = APIRouter(tags=["sync"])

BEAT = 15.0
"""Seconds between two signs of life of a stream."""


class Reader:
    """One caller's hold on one device."""

    def __init__(self, api: Api, who: Who, key: DeviceKey, epoch: int, offset: int) -> None:
        self.api, self.who, self.key, self.epoch, self.offset = api, who, key, epoch, offset

    @classmethod
    async def open(cls, api: Api, who: Who, key: DeviceKey, epoch: int | None, takeover: bool) -> Reader:
        """Claim the device, or go on with the claim that ``epoch`` names."""
        if epoch is None:
            claim = await api.timelines.carried_out(api.server.readers.claim(key, takeover=takeover))
            return cls(api, who, key, claim.epoch, claim.offset)
        reader = cls(api, who, key, epoch, 0)
        await reader.check()
        reader.offset = (await api.timelines.device(key))["offset"] or 0
        return reader

    async def check(self) -> None:
        """Raise `Conflict` where a newer connection or reader has the device."""
        if self.epoch and not await self.api.server.readers.current(self.key, self.epoch):
            raise Conflict(f"device {self.key.client_id[:80]!r}: a newer connection or reader has it now")

    async def page(self, after: int, limit: int, wait: float) -> dict[str, Any]:
        """A page after ``after``; where nothing is due, as soon as something is, within ``wait`` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        async with self.api.server.readers.watching(self.key.user) as news:
            while True:
                news.clear()
                page = await self.api.timelines.inbox(self.who, self.key, after, limit)
                left = deadline - asyncio.get_running_loop().time()
                if page["entries"] or left <= 0 or self.api.stopping.is_set():
                    return page
                if page["next"] < page["head"]:
                    after = page["next"]
                    continue
                after = page["next"]
                await first_of(news, self.api.stopping, min(left, 1.0))
                await self.check()

    def shown(self, page: dict[str, Any]) -> dict[str, Any]:
        return {
            "device": self.key.client_id,
            "user": self.key.user,
            "epoch": self.epoch or None,
            "offset": self.offset,
            **page,
        }


async def first_of(news: asyncio.Event, stopping: asyncio.Event, timeout: float) -> None:
    """Wait for either event, or for the time to pass."""
    waits = {asyncio.ensure_future(news.wait()), asyncio.ensure_future(stopping.wait())}
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()


@router.get(
    "/sync",
    response_model=Inbox,
    responses={**responses(), 200: {"model": Inbox, "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def pull(
    request: Request,
    api: ApiDep,
    who: Caller,
    device: Annotated[str, Query(min_length=1, max_length=1024)],
    after: Annotated[int | None, Query(ge=0, le=MAX_INT, description="without it, the device's offset")] = None,
    wait: Annotated[float, Query(ge=0, le=3600, description="seconds; no longer than the server allows")] = 0,
    limit: Limit = 100,
    epoch: Annotated[int | None, Query(ge=1, le=MAX_INT, description="go on with an earlier claim")] = None,
    takeover: Annotated[bool, Query(description="close the device's MQTT connection")] = False,
    user: Annotated[str | None, Query(max_length=1024)] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """What is due to a device of mine after an offset. Reading moves nothing: acknowledge with `POST /v1/sync/ack`.

    With `Accept: text/event-stream` it is a stream of server-sent events (`Last-Event-ID` continues one). A device that is
    new is made. One that has no subscriptions is given its user's whole inbox.
    """
    who, key = device_key(who, device, user)
    reader = await Reader.open(api, who, key, epoch, takeover)
    if last_event_id is not None and after is None and last_event_id.isascii() and last_event_id.isdigit():
        after = int(last_event_id)
    start = reader.offset if after is None else after
    if "text/event-stream" in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(reader, request, start, limit), media_type="text/event-stream", headers=headers)
    with api.waiting(who):
        return reply(reader.shown(await reader.page(start, limit, min(wait, api.max_wait))))


async def stream(reader: Reader, request: Request, after: int, limit: int) -> AsyncIterator[bytes]:
    """Events: ``claim`` once, ``message`` per entry, ``superseded`` at the end where another connection took the device."""
    api = reader.api
    try:
        with api.waiting(reader.who):
            yield event("claim", {"epoch": reader.epoch or None, "offset": reader.offset})
            while not api.stopping.is_set():
                await reader.check()
                await api.gate.who(request)  # a token may have been revoked meanwhile
                page = await reader.page(after, limit, BEAT)
                for entry in page["entries"]:
                    yield event("message", entry, entry["offset"])
                if not page["entries"]:
                    yield b": beat\n\n"
                after = page["next"]
    except Conflict as problem:
        yield event("superseded", {"detail": problem.detail})
    except Problem as problem:
        yield event("problem", {"status": problem.status, "detail": problem.detail})


def event(kind: str, data: Any, number: int | None = None) -> bytes:
    """One server-sent event."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + dumps(data) + b"\n\n"


@router.post("/sync/ack", response_model=Offset, responses=responses())
async def acknowledge(body: AckBody, api: ApiDep, who: Caller) -> Response:
    """Everything up to this offset is done: the same offset that MQTT moves. Durable when this answers."""
    _, key = device_key(who, body.device, body.user)
    return reply({"offset": await api.timelines.carried_out(api.server.readers.acknowledge(key, body.epoch, body.offset))})
