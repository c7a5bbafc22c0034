"""Routes: recalling a message."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from plugins.http.api import Acting, responses
from plugins.http.models import Body
from plugins.http.rendering import reply
from plugins.recall.service import Recalls


class RecallBody(Body):
    """Nothing has to be said."""


class Recalled(BaseModel):
    """``recalled`` is the message. ``by`` is the one that recalled it, with its place; ``again``: it was recalled before."""

    recalled: str
    again: bool
    by: str | None = None
    seq: int | None = None
    time: int | None = None


def make_router(recalls: Recalls) -> APIRouter:
    """The routes of a plugin."""
    router = APIRouter(tags=["conversations"])

    @router.post("/messages/{message_id}/recall", response_model=Recalled, responses=responses())
    async def recall(message_id: str, who: Acting, body: RecallBody | None = None) -> Response:
        """Recall a message of mine, or one of a topic where I may: its content goes, and every device that has it hears of it.

        It keeps its place, without payload and properties. Whoever subscribes to the topic gets a message that names it.
        """
        return reply(await recalls.recall(who, message_id))

    return router
