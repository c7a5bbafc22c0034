"""Routes: devices, their offsets and subscriptions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import ApiDep, Caller, Limit, checked_user, device_key, responses
from plugins.http.auth import acting_for
from plugins.http.models import LONGEST_USER, Device, Devices, Offset, OffsetBody, SubscriptionBody
from plugins.http.rendering import cursor_of, place_of, reply, tagged
from plugins.http.strict import router_of

router = router_of("devices")

User = Annotated[str | None, Query(max_length=LONGEST_USER, description="for operators: whose devices")]


@router.get("/devices", response_model=Devices, responses=responses())
async def list_devices(
    request: Request,
    api: ApiDep,
    who: Caller,
    user: User = None,
    after: Annotated[str, Query(max_length=4096, description="`next` of the page before")] = "",
    limit: Limit = 100,
) -> Response:
    """My devices: offset, head and lag of the inbox, connected or not, subscriptions. An operator sees everybody's."""
    who = acting_for(who, checked_user(user))
    everybody = who.operator and user is None
    page = await api.timelines.devices("" if everybody else who.user, place_of(after), limit)
    return tagged(request, {**page, "next": cursor_of(page["next"])})


@router.put("/devices/{device:path}/offset", response_model=Offset, responses=responses())
async def set_offset(device: str, body: OffsetBody, api: ApiDep, who: Caller, user: User = None) -> Response:
    """Make a device go on after this offset: set back, it gets everything after it again. Connected or not."""
    _, key = device_key(who, device, user)
    return reply({"offset": await api.timelines.carried_out(api.server.readers.set_offset(key, body.offset))})


@router.post("/devices/{device:path}/subscriptions", response_model=Device, responses=responses())
async def subscribe(device: str, body: SubscriptionBody, api: ApiDep, who: Caller, user: User = None) -> Response:
    """Subscribe a durable device, as its own SUBSCRIBE would."""
    who, key = device_key(who, device, user)
    await api.timelines.subscribe(who, key, body.filter, body.qos)
    return reply(await api.timelines.device(key))


@router.delete("/devices/{device:path}/subscriptions", status_code=204, response_class=Response, responses=responses())
async def unsubscribe(
    device: str,
    filter: Annotated[str, Query(min_length=1, max_length=65535)],
    api: ApiDep,
    who: Caller,
    user: User = None,
) -> Response:
    """Take a filter out of a device."""
    _, key = device_key(who, device, user)
    await api.timelines.unsubscribe(key, filter)
    return Response(status_code=204)


@router.get("/devices/{device:path}", response_model=Device, responses=responses())
async def read_device(request: Request, device: str, api: ApiDep, who: Caller, user: User = None) -> Response:
    """One device."""
    _, key = device_key(who, device, user)
    return tagged(request, await api.timelines.device(key))


@router.delete("/devices/{device:path}", status_code=204, response_class=Response, responses=responses())
async def forget(device: str, api: ApiDep, who: Caller, user: User = None) -> Response:
    """Forget a device: its connection, subscriptions and offset. The conversations keep their messages."""
    _, key = device_key(who, device, user)
    await api.timelines.carried_out(api.server.readers.forget(key))
    return Response(status_code=204)
