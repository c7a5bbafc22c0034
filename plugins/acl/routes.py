"""Routes: the access rules, and what decides about somebody, for the operator."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.access import (
    PUBLISH,
    RULE_KIND,
    AccessRule,
    AuthRequest,
    Identity,
    SessionInfo,
    Verdict,
    led_elsewhere,
    maybe_led,
    stored_place,
)
from broker.amqtt import Services
from broker.packets import ProtocolViolation, parse_share, topics, validate_filter
from plugins.http.api import ApiDep, Operator, responses
from plugins.http.models import MAX_FILTER, Body
from plugins.http.rendering import reply, tagged
from plugins.timelines import NotFound, Unprocessable
from plugins.timelines.errors import Away
from storage.records import DropSetting, SaveSetting

RuleId = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9_.-]+$")]
Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_FILTER)]], Field(min_length=1, max_length=1000)]


class RuleBody(Body):
    """A rule: either `allow` or `deny`, with the actions."""

    allow: Names | None = None
    """publish, subscribe, receive, history, search; `read` is all but publish, `all` is all."""
    deny: Names | None = None
    """The same; what is denied anywhere is denied."""
    topics: Names
    """Topic filters, in which {user} and {client} may stand."""
    users: Names | None = None
    """The user names that it is about; everybody where it is left out."""


class StoredRule(BaseModel):
    """A rule, and where it stands: its id in storage, or its place in the configuration."""

    id: str | None
    place: str
    allow: list[str] | None
    deny: list[str] | None
    topics: list[str]
    users: list[str] | None


class RuleList(BaseModel):
    """``acl_file`` is Mosquitto's file that holds beside them, or null."""

    rules: list[StoredRule]
    acl_file: str | None


class Answer(BaseModel):
    """``rule`` is the place of the rule that decides; null where no rule does."""

    allowed: bool
    rule: str | None
    why: str


@runtime_checkable
class Leading(Protocol):
    """A plugin that leads what is published to other topics (`plugins.rules`): its publisher needs to be allowed those, too."""

    def led(self, topic: str, user: str, client: str) -> tuple[str, list[str]]:
        """Where to; and the rules of which the message itself says whether."""


class Acl(Protocol):
    """The plugin; see there."""

    stored: dict[str, AccessRule]
    config: Any


def make_router(find: Callable[[Services], Acl | None]) -> APIRouter:
    """The routes; ``find`` gives the plugin as it is now."""
    router = APIRouter(tags=["access rules"])

    def plugin(server: Services) -> Acl:
        found = find(server)
        if found is None:
            raise Away("acl is not among the plugins any more")
        return found

    @router.get("/acl/rules", response_model=RuleList, responses=responses())
    async def list_rules(request: Request, api: ApiDep, who: Operator) -> Response:
        """Every rule of the configuration and in storage. For the operator."""
        acl = plugin(api.server)
        rules = [_shown(None, f"plugins.acl.rules[{number}]", rule) for number, rule in enumerate(acl.config.rules)]
        rules += [_shown(key, stored_place(key), rule) for key, rule in sorted(acl.stored.items())]
        return tagged(request, {"rules": rules, "acl_file": acl.config.acl_file or None})

    @router.post("/acl/rules", response_model=StoredRule, status_code=201, responses=responses())
    async def add_rule(body: RuleBody, api: ApiDep, who: Operator) -> Response:
        """Store a rule. When this answers, it holds for all clients of this node. For the operator."""
        key = secrets.token_hex(4)
        while key in plugin(api.server).stored:
            key = secrets.token_hex(4)
        return reply(await _save(api, key, body), 201)

    @router.put("/acl/rules/{rule_id}", response_model=StoredRule, responses=responses())
    async def put_rule(rule_id: RuleId, body: RuleBody, api: ApiDep, who: Operator) -> Response:
        """The same under an id of your own; a rule that has it is replaced. For the operator."""
        plugin(api.server)
        return reply(await _save(api, rule_id, body))

    @router.delete("/acl/rules/{rule_id}", status_code=204, response_class=Response, responses=responses())
    async def remove_rule(rule_id: RuleId, api: ApiDep, who: Operator) -> Response:
        """Remove a rule from storage. Without the last one everything may be done again. For the operator."""
        stored = await api.server.storage.settings(RULE_KIND)
        if rule_id not in [setting.key for setting in stored]:
            raise NotFound(f"rule {rule_id!r}: there is none in storage")
        await api.timelines.written([DropSetting(RULE_KIND, rule_id)])
        return Response(status_code=204)

    @router.get("/acl/check", response_model=Answer, responses=responses())
    async def check(
        api: ApiDep,
        who: Operator,
        action: Literal["publish", "subscribe", "receive", "history", "search"],
        topic: Annotated[str, Query(min_length=1, max_length=MAX_FILTER)],
        user: Annotated[str, Query(max_length=1024, description="a user name; empty for a client that nobody verified")] = "",
        client: Annotated[str, Query(max_length=1024, description="its client id")] = "",
    ) -> Response:
        """Whether a user may do something, and which rule decides, all topic plugins asked. For the operator."""
        _check_topic(action, topic)
        if action == PUBLISH and (why := api.server.access.closed(topic)):
            verdict = Verdict(False, None, f"the topic {why}")
        else:
            identity = Identity(f"u/{user}" if user else f"c/{client}", user or None, not user)
            info = SessionInfo(identity, AuthRequest(client, user or None, over_http=not client))
            share = parse_share(topic) if action == "subscribe" else None
            verdict = await api.server.access.explained(info, action, share[1] if share is not None else topic)
            rules = api.server.plugin(Leading)  # type: ignore[type-abstract]
            if action == PUBLISH and verdict.allowed and rules is not None:
                there, unsure = rules.led(topic, user, client)
                if there != topic:
                    second = await api.server.access.explained(info, action, there)
                    verdict = Verdict(second.allowed, second.rule, led_elsewhere(there, second.why))
                verdict = Verdict(verdict.allowed, verdict.rule, verdict.why + maybe_led(unsure))
        return reply({"allowed": verdict.allowed, "rule": verdict.rule.place if verdict.rule else None, "why": verdict.why})

    return router


async def _save(api: Any, key: str, body: RuleBody) -> dict[str, Any]:
    try:
        rule = AccessRule(**body.model_dump(exclude_none=True))
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    await api.timelines.written([SaveSetting(RULE_KIND, key, json.dumps(rule.written()).encode())])
    return _shown(key, stored_place(key), rule)


def _shown(key: str | None, place: str, rule: AccessRule) -> dict[str, Any]:
    return {"id": key, "place": place, **dict.fromkeys(("allow", "deny", "topics", "users")), **rule.written()}


def _check_topic(action: str, topic: str) -> None:
    try:
        if action == "subscribe":
            validate_filter(topic)
            parse_share(topic)
        else:
            topics.validate_name(topic)
    except ProtocolViolation as violation:
        raise Unprocessable(violation.text) from violation
