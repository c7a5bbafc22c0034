"""Routes: who I am, bearer tokens, and the broker's health."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Acting, ApiDep, Caller, responses
from plugins.http.auth import new_token
from plugins.http.models import Health, IssuedToken, Me, NewToken, TokenList
from plugins.http.rendering import reply, tagged
from plugins.http.strict import router_of
from plugins.timelines import Conflict, NotFound
from storage.records import DropTokens, SaveSetting, SaveToken, Token

router = router_of("account")

MAX_TOKENS = 100
TOKENS = "tokens"
"""The kind of the stored setting that names the last token which was revoked: so every node knows that one was."""


def shown(token: Token) -> dict[str, object]:
    """A token as its user may see it."""
    return {
        "id": token.id,
        "user": token.user,
        "label": token.label,
        "created": token.created,
        "expires": token.expires,
    }


@router.get("/health", response_model=Health, responses=responses())
async def health(api: ApiDep) -> Response:
    """Whether clients should come here. Open to everybody who can reach it; 503 while the broker cannot store. Also for a node
    of a cluster that leaves, or of which the others do not know that it lives."""
    why = api.server.status().not_ready
    served = [{"name": one.name, "what": one.what, "expires": one.not_after} for one in api.server.certificates.expiries]
    return reply({"status": why or "ok", **({"certificates": served} if served else {})}, 503 if why else 200)


@router.get("/me", response_model=Me, responses=responses())
async def me(request: Request, who: Caller) -> Response:
    """Who the broker takes me for."""
    return tagged(request, {"user": who.user, "operator": who.operator})


@router.post("/tokens", response_model=IssuedToken, status_code=201, responses=responses())
async def issue(body: NewToken, api: ApiDep, who: Caller) -> Response:
    """A new bearer token for me. It is shown this once, and can do what I can over HTTP."""
    now = api.server.now()
    mine = await api.server.storage.tokens(who.user)
    spent = [token.id for token in mine if 0 < token.expires <= now]
    if len(mine) - len(spent) >= MAX_TOKENS:
        raise Conflict(f"you have {MAX_TOKENS} tokens: revoke one first")
    secret, token = new_token(who.user, body.label, now, now + body.lifetime * 1000)
    await api.timelines.written([DropTokens(spent), SaveToken(token)] if spent else [SaveToken(token)])
    return reply({**shown(token), "token": secret}, 201)


@router.get("/tokens", response_model=TokenList, responses=responses())
async def list_tokens(request: Request, api: ApiDep, who: Acting) -> Response:
    """My tokens, without their secrets. For the operator: a user's."""
    now = api.server.now()
    mine = await api.server.storage.tokens(who.user)
    return tagged(request, {"tokens": [shown(token) for token in mine if not 0 < token.expires <= now]})


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response, responses=responses())
async def revoke(token_id: Annotated[str, Path(max_length=64)], api: ApiDep, who: Acting) -> Response:
    """Revoke a token of mine: it is refused from here on, and streams and waits that it began end within a second. For the
    operator: a user's."""
    mine = await api.server.storage.tokens(who.user)
    if token_id not in [token.id for token in mine]:
        raise NotFound(f"token {token_id!r}: {who.user!r} has none such")
    await api.timelines.written([DropTokens([token_id]), SaveSetting(TOKENS, "revoked", token_id.encode())])
    return Response(status_code=204)
