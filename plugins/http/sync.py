"""Routes: what a device has not done yet, pulled, long-polled or streamed, and its acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker.sessions import channel_inbox
from plugins.http.api import Acting, Api, ApiDep, Caller, Limit, device_key, responses
from plugins.http.auth import Lasting
from plugins.http.models import MAX_FILTER, MAX_INT, AckBody, Inbox, Offset, Pointers
from plugins.http.rendering import dumps, reply, tagged
from plugins.http.strict import router_of
from plugins.timelines import Conflict, NotFound, Problem, Who
from plugins.timelines.service import problem_of
from storage.errors import StorageError
from storage.records import DeviceKey

router = router_of("sync")

BEAT = 15.0
"""Seconds between two signs of life of a stream."""
CHECK = 0.25
"""Seconds after which who waits is looked at again."""


class Reader:
    """One caller's hold on one device. ``channel`` is the one that is read; empty for the inbox."""

    def __init__(self, api: Api, request: Request, who: Who, key: DeviceKey, epoch: int, channel: str) -> None:
        self.api, self.who, self.key, self.epoch, self.channel = api, who, key, epoch, channel
        self.offset = 0
        self._caller = Lasting(api.authenticator, request, who)

    @classmethod
    async def open(
        cls, api: Api, request: Request, who: Who, key: DeviceKey, epoch: int | None, takeover: bool, channel: str
    ) -> Reader:
        """Claim the device, or go on with the claim that ``epoch`` names."""
        reader = cls(api, request, who, key, epoch or 0, channel)
        if channel:
            await reader.check_channel()  # before anybody loses the device for nothing
        if epoch is None:
            claim = await api.timelines.carried_out(api.server.readers.claim(key, takeover=takeover))
            reader.epoch, reader.offset = claim
        else:
            await reader.check()
            reader.offset = (await api.timelines.device(key))["offset"] or 0
        if channel:
            reader.offset = await reader.check_channel()
        return reader

    async def check_channel(self) -> int:
        """The device's offset in the channel that is read; raises `NotFound` where it has no place there."""
        for place in await self.api.timelines.channels(self.key):
            if place["channel"] == self.channel:
                return int(place["offset"])
        raise NotFound(f"device {self.key.client_id[:80]!r} has no filter for a large group {self.channel[:80]!r}")

    async def check(self) -> None:
        """Raise `Conflict` where a newer connection or reader has the device."""
        await self._caller.check()
        if self.epoch and not await self.api.server.readers.current(self.key, self.epoch):
            raise Conflict(f"device {self.key.client_id[:80]!r}: a newer connection or reader has it now")

    async def page(self, after: int, limit: int, wait: float) -> dict[str, Any]:
        """A page after ``after``; where nothing is due, as soon as something is, within ``wait`` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        inbox = channel_inbox(self.channel) if self.channel else self.key.user
        looks = 0
        async with self.api.server.readers.watching(inbox) as news:
            while True:
                news.clear()
                page = await self.api.timelines.inbox(self.who, self.key, after, limit, self.channel)
                left = deadline - asyncio.get_running_loop().time()
                if page["entries"] or left <= 0 or self.api.stopping.is_set():
                    return page
                if page["next"] < page["head"]:
                    after = page["next"]
                    continue
                after = page["next"]
                await first_of(news, self.api.stopping, min(left, CHECK))
                await self._caller.check()
                looks += 1
                if news.is_set() or looks % 2 == 0:  # another node may have to be asked
                    await self.check()

    def shown(self, page: dict[str, Any]) -> dict[str, Any]:
        return {
            "device": self.key.client_id,
            "user": self.key.user,
            "epoch": self.epoch or None,
            "channel": self.channel or None,
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
    channel: Annotated[str, Query(max_length=MAX_FILTER, description="a large group of the device's, not the inbox")] = "",
    user: Annotated[str | None, Query(max_length=1024)] = None,
    data_epoch: Annotated[str, Query(max_length=64, description="of which copy of the data `after` is")] = "",
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """What is due to a device of mine after an offset. Reading moves nothing: acknowledge with `POST /v1/sync/ack`.

    With `Accept: text/event-stream` it is a stream of server-sent events (`Last-Event-ID` continues one). A device that is
    new is made. One that has no subscriptions is given its user's whole inbox.
    """
    who, key = device_key(who, device, user)
    if after is None and last_event_id is not None:
        after, data_epoch = event_place(last_event_id, data_epoch)
    if after is not None:
        await api.timelines.same_data(after, data_epoch, channel_inbox(channel) if channel else key.user)
    reader = await Reader.open(api, request, who, key, epoch, takeover, channel)
    start = reader.offset if after is None else after
    if "text/event-stream" in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(reader, start, limit), media_type="text/event-stream", headers=headers)
    with api.waiting(who):
        return reply(reader.shown(await reader.page(start, limit, min(wait, api.max_wait))))


async def stream(reader: Reader, after: int, limit: int) -> AsyncIterator[bytes]:
    """Events: ``claim`` once, ``message`` per entry, ``superseded`` at the end where another connection took the device."""
    api = reader.api
    try:
        with api.waiting(reader.who):
            yield event("claim", {"epoch": reader.epoch or None, "offset": reader.offset})
            while not api.stopping.is_set():
                await reader.check()
                page = await reader.page(after, limit, BEAT)
                for entry in page["entries"]:
                    yield event("message", entry, f"{page['data_epoch']}.{entry['offset']}")
                if not page["entries"]:
                    yield b": beat\n\n"
                after = page["next"]
    except Conflict as problem:
        yield event("superseded", {"detail": problem.detail})
    except (Problem, StorageError) as error:
        said = problem_of(error)
        assert said is not None
        yield event("problem", {"status": said.status, "detail": said.detail})


def event_place(event_id: str, data_epoch: str) -> tuple[int | None, str]:
    """The offset that a stream's last event had, and of which data it was; None for an id that is none of ours."""
    epoch, _, number = event_id.rpartition(".")
    return (int(number), epoch or data_epoch) if number.isascii() and number.isdigit() else (None, data_epoch)


def event(kind: str, data: Any, id: str = "") -> bytes:
    """One server-sent event."""
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {kind}\ndata: ".encode() + dumps(data) + b"\n\n"


@router.get("/inbox", response_model=Pointers, responses=responses())
async def read_pointers(
    request: Request,
    api: ApiDep,
    who: Acting,
    after: Annotated[int | None, Query(ge=0, le=MAX_INT, description="without it, the last entries")] = None,
    limit: Limit = 100,
) -> Response:
    """What my inbox points to, for all my devices at once. It claims no device, moves nothing, and holds no payloads."""
    return tagged(request, await api.timelines.pointers(who, after, limit))


@router.post("/sync/ack", response_model=Offset, responses=responses())
async def acknowledge(body: AckBody, api: ApiDep, who: Caller) -> Response:
    """Everything up to this offset is done: the same offset that MQTT moves. Durable when this answers."""
    _, key = device_key(who, body.device, body.user)
    done = api.server.readers.acknowledge(key, body.epoch, body.offset, body.channel or "")
    return reply({"offset": await api.timelines.carried_out(done)})
