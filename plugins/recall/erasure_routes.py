"""Routes: erasing users and conversations, for the operator."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Caller, Limit, Operator, responses
from plugins.http.models import LONGEST_USER, Body, Milliseconds
from plugins.http.rendering import reply, tagged
from plugins.recall.erasures import Erasures

What = Annotated[Literal["user", "conversation"], Path(description="what is erased")]
Name = Annotated[str, Path(max_length=LONGEST_USER, description="a user key, u/name or c/client-id, or a topic")]


class NewErasure(Body):
    """What to erase: exactly one of the two."""

    user: Annotated[str, Field(min_length=3, max_length=LONGEST_USER)] | None = None
    """A user key: u/name, or c/client-id of an anonymous client."""
    conversation: Annotated[str, Field(min_length=1, max_length=65535)] | None = None
    """A topic."""


class ErasureState(BaseModel):
    """``looked``, ``recalled``, ``failed`` are messages; ``permille`` is about how far it is. ``ended`` is 0 until then."""

    what: Literal["user", "conversation"]
    name: str
    requested: Milliseconds
    state: Literal["running", "done"]
    phase: str
    looked: int
    recalled: int
    failed: int
    permille: int
    ended: int


class ErasureList(BaseModel):
    erasures: list[ErasureState]
    next: str | None


def erasure_router(erasures: Erasures) -> APIRouter:
    """The routes of a plugin."""
    router = APIRouter(tags=["operation"])

    @router.post("/erasures", response_model=ErasureState, status_code=202, responses=responses())
    async def erase(body: NewErasure, who: Caller) -> Response:
        """Erase a user, or a conversation: all messages are recalled; of a user, devices, inbox, tokens and account go too.

        It goes on after this answer, over restarts. One that is under way goes on; one that has ended begins anew. For the
        operator; `plugins.recall.own_erasure` lets a user erase itself.
        """
        return reply(await erasures.ask(who, body.user, body.conversation), 202)

    @router.get("/erasures", response_model=ErasureList, responses=responses())
    async def list_erasures(
        request: Request,
        who: Operator,
        after: Annotated[str, Query(max_length=65535, description="`next` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """The erasures that are under way, or have ended. For the operator."""
        found, behind = await erasures.listed(after, limit)
        return tagged(request, {"erasures": found, "next": behind})

    @router.get("/erasures/{what}/{name:path}", response_model=ErasureState, responses=responses())
    async def erasure(request: Request, what: What, name: Name, who: Caller) -> Response:
        """How far one is. For whoever may ask for it."""
        return tagged(request, await erasures.seen(who, what, name))

    @router.delete("/erasures/{what}/{name:path}", status_code=204, response_class=Response, responses=responses())
    async def forget(what: What, name: Name, who: Operator) -> Response:
        """Forget one that has ended: its record names who was erased. For the operator."""
        await erasures.forget(what, name)
        return Response(status_code=204)

    return router
