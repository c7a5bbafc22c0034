"""Routes: bans, for the operator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.access import KIND, Ban, network
from plugins.http.api import Api, ApiDep, Limit, Operator, checked_user, responses
from plugins.http.models import LONGEST_CLIENT, LONGEST_USER, Body, Milliseconds
from plugins.http.rendering import reply, tagged
from plugins.http.strict import router_of
from plugins.timelines import NotFound, Unprocessable
from storage.records import DropSetting, Operation, SaveSetting

router = router_of("bans")

MOST = 100_000
_LONGEST_ID = LONGEST_USER + len("user:")


class NewBan(Body):
    """Whom to keep out: exactly one of user, client and address."""

    user: Annotated[str | None, Field(min_length=3, max_length=LONGEST_USER)] = None
    """A user key: u/<user name> or c/<client id>."""
    client: Annotated[str | None, Field(min_length=1, max_length=LONGEST_CLIENT)] = None
    """A client id, of whichever user."""
    address: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    """An IP address, or a network: 192.0.2.0/24."""
    seconds: Annotated[int, Field(ge=0, le=10 * 365 * 86400)] = 0
    """How long; 0 is for ever."""
    reason: Annotated[str, Field(max_length=500)] = ""
    """Why, for other administrators. The banned are not told."""


class BanState(BaseModel):
    """``until`` is null where it is for ever."""

    id: str
    kind: Literal["user", "client", "address"]
    what: str
    until: Milliseconds | None
    reason: str
    by: str
    since: Milliseconds


class BanList(BaseModel):
    """``next`` is the ``after`` of the next page; null at the end."""

    bans: list[BanState]
    next: str | None


@router.get("/bans", response_model=BanList, responses=responses())
async def list_bans(
    request: Request,
    api: ApiDep,
    who: Operator,
    after: Annotated[str, Query(max_length=_LONGEST_ID)] = "",
    limit: Limit = 100,
) -> Response:
    """Who is kept out, by id. A page may be short, or empty, and have a `next`. For the operator."""
    now = api.server.now()
    page = api.server.bans.page(after, limit + 1)
    more = page[limit - 1].key if len(page) > limit else None
    return tagged(request, {"bans": [_shown(ban) for ban in page[:limit] if not ban.over(now)], "next": more})


@router.post("/bans", response_model=BanState, status_code=201, responses=responses())
async def add_ban(body: NewBan, api: ApiDep, who: Operator) -> Response:
    """Keep somebody out, and end the connections that there are within a second, on all nodes. For the operator."""
    ban = _ban(api, body, who.user)
    bans = api.server.bans.all()
    over: list[Operation] = [DropSetting(KIND, old.key) for old in bans if old.over(api.server.now()) and old.key != ban.key]
    if len(bans) - len(over) >= MOST:
        raise Unprocessable(f"there are {MOST} bans already: ban a network instead of many addresses")
    await api.timelines.written([*over[:1000], SaveSetting(KIND, ban.key, ban.value())])
    return reply(_shown(ban), 201)


@router.delete("/bans/{ban:path}", status_code=204, response_class=Response, responses=responses())
async def remove_ban(ban: Annotated[str, Path(max_length=_LONGEST_ID)], api: ApiDep, who: Operator) -> Response:
    """Let somebody in again, by the ban's id. For the operator."""
    if api.server.bans.get(ban) is None:
        raise NotFound(f"ban {ban[:80]!r}: there is none")
    await api.timelines.written([DropSetting(KIND, ban)])
    return Response(status_code=204)


def _ban(api: Api, body: NewBan, by: str) -> Ban:
    given = {name: value for name in ("user", "client", "address") if (value := getattr(body, name)) is not None}
    if len(given) != 1:
        raise Unprocessable(f"exactly one of user, client and address must be given, not {', '.join(given) or 'none'}")
    ((kind, what),) = given.items()
    if kind == "user":
        checked_user(what)
    if kind == "address":
        try:
            what = str(network(what))
        except ValueError as error:
            raise Unprocessable(
                f"address {what!r}: must be an IP address or a network such as 192.0.2.0/24: {error}"
            ) from error
    until = api.server.now() + body.seconds * 1000 if body.seconds else 0
    return Ban(kind, what, until, body.reason, by, api.server.wall())


def _shown(ban: Ban) -> dict[str, Any]:
    return {"id": ban.key, **ban._asdict(), "until": ban.until or None}
