"""Routes: how the rules do, and what they would do with a message. For the operator."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from plugins.http.api import Operator, checked_user, responses
from plugins.http.models import Body
from plugins.http.rendering import reply, tagged
from plugins.rules.trial import Trial, unseen
from plugins.timelines import Unprocessable
from plugins.timelines.messages import payload_bytes, shown_payload
from plugins.timelines.publishing import check_name


class RuleState(BaseModel):
    """Counts of this node since it started. ``delivered`` and ``error`` are its webhook's (docs/webhooks.md)."""

    name: str
    topics: list[str]
    where: str
    does: list[str]
    matched: int
    faults: int
    not_json: int
    republished: int
    refused: int
    loops: int
    delivered: int
    error: str | None


class RuleList(BaseModel):
    rules: list[RuleState]


class Sample(Body):
    """A message to try the rules on."""

    topic: Annotated[str, Field(min_length=1, max_length=65535)]
    """The topic that it would be published to."""
    payload: Any
    """A string; with `"encoding": "json"` any JSON value."""
    encoding: Literal["text", "json", "base64"] = "text"
    """What `payload` is: the text itself, a JSON value, or base64 of the bytes."""
    sender: Annotated[str | None, Field(min_length=3, max_length=1024)] = None
    """A user key: u/name. Without it nobody that was verified, who is c/ and the client id."""
    client: Annotated[str, Field(min_length=1, max_length=1024)] = "test"
    """The client id."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    retain: bool = False


class Tried(BaseModel):
    """What one rule would do; nothing where `why_not` says so. `failed`: it would be counted as a fault."""

    name: str
    does: list[str]
    why_not: str
    failed: bool


class Outcome(BaseModel):
    """The rules in the order in which they act, and the message that would be stored."""

    rules: list[Tried]
    topic: str
    encoding: Literal["text", "json", "base64"]
    payload: Any


class Rules(Protocol):
    """The plugin; see there."""

    def states(self) -> list[dict[str, Any]]: ...
    def tried(self, about: dict[str, Any], payload: bytes) -> Trial: ...


def make_router(plugin: Rules) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter(tags=["rules"])

    @router.get("/rules", response_model=RuleList, responses=responses())
    async def list_rules(request: Request, who: Operator) -> Response:
        """How each rule does on this node. For the operator."""
        return tagged(request, {"rules": plugin.states()})

    @router.post("/rules/test", response_model=Outcome, responses=responses())
    async def try_rules(body: Sample, who: Operator) -> Response:
        """What each rule would do with a message, and why not. Nothing is published, and nothing counted. For the operator."""
        check_name(body.topic)
        if why := unseen(body.topic):
            raise Unprocessable(f"topic {why}")
        nobody = checked_user(f"c/{body.client}")
        sender = nobody if body.sender is None else checked_user(body.sender)
        about = {"topic": body.topic, "sender": sender, "client": body.client, "qos": body.qos, "retain": body.retain}
        outcome = plugin.tried(about, payload_bytes(body.payload, body.encoding))
        encoding, payload = shown_payload(outcome.payload)
        rules = [tried._asdict() for tried in outcome.rules]
        return reply({"rules": rules, "topic": outcome.topic, "encoding": encoding, "payload": payload})

    return router
