"""Routes: who is connected, or could be, with which subscriptions, and the end of connections. For the operator."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import Wanted
from plugins.http.api import Api, ApiDep, Limit, Operator, checked_user, responses
from plugins.http.models import LONGEST_CLIENT, LONGEST_USER, MAX_FILTER, Client, Clients, Ended, Subscriptions
from plugins.http.rendering import cursor_of, place_of, reply, tagged
from plugins.http.strict import router_of
from plugins.timelines import Conflict, NotFound
from plugins.timelines.errors import Away
from plugins.timelines.publishing import check_name

router = router_of("clients")

User = Annotated[str | None, Query(max_length=LONGEST_USER, description="u/<user name> or c/<client id>")]
After = Annotated[str, Query(max_length=200_000, description="`next` of the page before")]
_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}
_OF_CONNECTION = ("address", "listener", "keep_alive", "since", "inflight_in", "inflight_out")


@router.get("/clients", response_model=Clients, responses=responses())
async def list_clients(
    request: Request,
    api: ApiDep,
    who: Operator,
    user: User = None,
    connected: bool | None = None,
    after: After = "",
    limit: Limit = 100,
) -> Response:
    """Clients that are connected to any node, and durable sessions that wait for theirs, by user and client id.

    Of many of which few are wanted a page may be short, or empty, and have a `next`.
    """
    wanted = Wanted(checked_user(user) or "", "", -1 if connected is None else int(connected), place_of(after), limit)
    found = await api.timelines.carried_out(api.server.clients.listed(wanted))
    rows = [await _shown(api, row) for row in found.rows]
    return tagged(request, {"clients": rows, "next": cursor_of(found.next), "silent": found.silent})


@router.get("/subscriptions", response_model=Subscriptions, responses=responses())
async def list_subscriptions(
    request: Request,
    api: ApiDep,
    who: Operator,
    filter: Annotated[str, Query(max_length=MAX_FILTER, description="only of this very filter")] = "",
    topic: Annotated[str, Query(max_length=MAX_FILTER, description="only of filters that match this topic")] = "",
    user: User = None,
    client: Annotated[str, Query(max_length=LONGEST_CLIENT, description="only of this client id, of whichever user")] = "",
    after: After = "",
    limit: Limit = 100,
) -> Response:
    """Who subscribed to what, by user, client id and filter."""
    if topic:
        check_name(topic)
    wanted = Wanted(checked_user(user) or "", client, -1, place_of(after), limit, 1, filter, topic)
    found = await api.timelines.carried_out(api.server.clients.listed(wanted))
    rows = [{name: row[name] for name in ("user", "client", "connected", "filter", "qos")} for row in found.rows]
    return tagged(request, {"subscriptions": rows, "next": cursor_of(found.next), "silent": found.silent})


@router.get("/clients/{client:path}", response_model=Client, responses=responses())
async def read_client(request: Request, client: str, api: ApiDep, who: Operator, user: User = None) -> Response:
    """One client. Where several users have one of this id, `user` says whose."""
    found = await api.timelines.carried_out(api.server.clients.named(client, checked_user(user) or ""))
    if not found.rows:
        raise _missing(client, found.silent)
    if len(found.rows) > 1:
        users = ", ".join(row["user"] for row in found.rows)
        raise Conflict(f"client {client[:80]!r}: several users have one ({users}, …): say which with user=")
    return tagged(request, await _shown(api, found.rows[0]))


@router.delete("/clients/{client:path}", response_model=Ended, responses=responses())
async def end_client(
    client: str,
    api: ApiDep,
    who: Operator,
    user: User = None,
    forget: Annotated[bool, Query(description="end the session too: subscriptions, offset and what is in flight")] = False,
) -> Response:
    """End a client's connection (0x98, administrative action), on whichever node it is. It may connect again; see bans.

    Without `user` it is every user's client of this id.
    """
    clients, of = api.server.clients, checked_user(user) or ""
    found = await api.timelines.carried_out(clients.forget(client, of) if forget else clients.kick(client, of))
    if not found.devices:
        raise _missing(client, found.silent, "" if forget else "connected ")
    return reply({"users": sorted({key.user for key in found.devices}), "silent": found.silent})


def _missing(client: str, silent: list[str], kind: str = "") -> Exception:
    if silent:
        return Away(f"client {client[:80]!r}: not found, and nodes do not answer: {', '.join(silent)}", retry_after=5)
    return NotFound(f"{kind}client {client[:80]!r}: there is none")


async def _shown(api: Api, row: dict[str, Any]) -> dict[str, Any]:
    offset = row.get("offset", -1)
    lag = max(0, await api.server.storage.inbox_head(row["user"]) - offset) if offset >= 0 else None
    return {
        **{name: row[name] for name in ("user", "client", "connected", "durable", "subscriptions")},
        **{name: row.get(name) for name in _OF_CONNECTION},
        "protocol": _VERSIONS.get(row.get("protocol", 0)),
        "offset": offset if offset >= 0 else None,
        "lag": lag,
        "expires_at": row.get("expires_at") or None,
    }
