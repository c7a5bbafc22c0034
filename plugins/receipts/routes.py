"""Routes: how many have a message, and who."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import ApiDep, Caller, responses
from plugins.http.models import Milliseconds
from plugins.http.rendering import tagged
from plugins.receipts.service import DEVICES, MOST_COUNTED, MOST_DEVICES, MOST_SHOWN, LedgerService
from plugins.timelines import Timelines

After = Annotated[str, Query(max_length=200_000, description="`next` of the page before")]


class UserCounts(BaseModel):
    """Users who have it in their inboxes or in a channel; of these, those of whom a device was given it, has acknowledged it;
    and who has read the conversation up to it."""

    stored: int
    delivered: int
    acknowledged: int
    read: int


class DeviceCounts(BaseModel):
    """The devices of these users: those that it is due to, and of these who was given it and has acknowledged it."""

    due: int
    delivered: int
    acknowledged: int
    not_due: int


class GroupCounts(BaseModel):
    """Shared subscriptions."""

    stored: int
    acknowledged: int


class AllCounts(BaseModel):
    """Of this page; those of all pages are added up."""

    users: UserCounts
    devices: DeviceCounts
    groups: GroupCounts


class MessageCounts(BaseModel):
    """How many have the message. ``silent`` names nodes that did not answer: of their devices storage tells, a second late."""

    message: str
    topic: str
    seq: int
    sender: str
    time: Milliseconds
    counts: AllCounts
    silent: list[str]
    next: str | None


class Times(BaseModel):
    """It happened after the one time and until the other; null where nothing is known of that side."""

    after: Milliseconds | None
    until: Milliseconds | None


class DeviceRow(BaseModel):
    """A device. ``reason`` says why it is not due: filter, since, own, denied or expired. ``qos`` is null where it is not
    known."""

    device: str
    connected: bool
    state: Literal["not_due", "stored", "delivered", "acknowledged"]
    reason: str | None
    qos: int | None
    delivered: Times | None
    acknowledged: Times | None


class HolderRow(BaseModel):
    """A user, or the group of a shared subscription. ``entry`` is the sequence in the inbox, or in a large group's channel.
    ``more_devices`` is how many there are beside those that are listed."""

    user: str
    channel: str | None
    entry: int
    state: Literal["not_due", "stored", "delivered", "acknowledged"]
    read: bool
    read_at: Times | None
    devices: list[DeviceRow]
    more_devices: int


class MessageLedger(MessageCounts):
    """The same, and who they are."""

    holders: list[HolderRow]


def make_router(service: Callable[[Timelines], LedgerService]) -> APIRouter:
    """The routes; ``service`` makes what answers them."""
    router = APIRouter(tags=["receipts"])

    @router.get("/messages/{message_id}/counts", response_model=MessageCounts, responses=responses())
    async def counts(
        request: Request,
        message_id: str,
        api: ApiDep,
        who: Caller,
        after: After = "",
        limit: Annotated[int, Query(ge=1, le=MOST_COUNTED)] = MOST_COUNTED,
    ) -> Response:
        """How many have a message, were given it, have acknowledged and read it. For who may read its conversation."""
        return tagged(request, await service(api.timelines).counts(who, message_id, after, limit))

    @router.get("/messages/{message_id}/ledger", response_model=MessageLedger, responses=responses())
    async def ledger(
        request: Request,
        message_id: str,
        api: ApiDep,
        who: Caller,
        after: After = "",
        limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 100,
        devices: Annotated[int, Query(ge=0, le=MOST_DEVICES, description="of each user, at most")] = DEVICES,
    ) -> Response:
        """Who has a message, was given it, has acknowledged and read it, device by device. For its sender and the operator."""
        return tagged(request, await service(api.timelines).devices(who, message_id, after, limit, devices))

    return router
