"""schemathesis over the OpenAPI document: whatever is sent, no 5xx, and answers are as documented."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.http.conftest import HTTP, Site, site

if TYPE_CHECKING:  # imported by the tests: each process that collects them would take a second or two for it
    from schemathesis.checks import CheckContext

EXAMPLES = 12
_PATIENCE = 60  # seconds: a busy machine takes many for the document of all plugins
_SKIPPED = {"/v1/sync", "/v1/trace"}  # may stream for ever; test_journey and metrics/test_trace cover them


def not_ours(ctx: CheckContext, response: Any, case: Any) -> None:
    """Whatever was sent, it was not the server that failed."""
    assert response.status_code < 500 or (response.status_code == 503 and "/search" in case.path), response.text


def explore(
    url: str,
    below: str | tuple[str, ...] = "/v1/",
    secret: str = "",
    *,
    basic: tuple[str, str] | None = None,
    examples: int = EXAMPLES,
    skipped: frozenset[str] = frozenset(),
) -> int:
    """Calls every operation below some paths with generated data, as whom a token or a password says; how many calls were
    made."""
    import schemathesis
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=_PATIENCE)
    calls = 0
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    if basic is not None:
        headers = {"Authorization": f"Basic {base64.b64encode(':'.join(basic).encode()).decode()}"}
    checks = [not_ours, status_code_conformance, content_type_conformance, response_schema_conformance]
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # a schema of ours that is invalid fails here
        if operation.path in _SKIPPED | skipped or not operation.path.startswith(below):
            continue

        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def call(case: Any) -> None:
            nonlocal calls
            calls += 1
            case.call_and_validate(base_url=url, checks=checks, headers=headers, timeout=_PATIENCE)

        call()
    return calls


@pytest.mark.slow  # some of what all plugins have, by more examples
async def test_the_api_answers_as_it_is_documented(tour: Site) -> None:
    http = tour.caller()
    for number in range(3):
        await http.post("/conversations/a/messages", json={"payload": str(number)})
    assert await asyncio.to_thread(explore, tour.url) > 100
    assert (await http.get("/conversations/a/messages", params={"order": "oldest", "limit": 3})).status_code == 200


@pytest.mark.slow
async def test_so_does_that_of_the_users(tmp_path: Path) -> None:
    """Apart: with the first of them, whoever comes without credentials is the operator no more."""
    http = {"http": {**HTTP["http"], "operator_file": str(tmp_path / "operator.json")}}
    async with site(plugins={**http, "accounts": {}}) as made:
        secret = (tmp_path / "operator.secret").read_text().strip()
        assert await asyncio.to_thread(explore, made.url, "/v1/users", secret) > 40
        answer = await made.caller(headers={"Authorization": f"Bearer {secret}"}).get("/users")
        assert answer.status_code == 200


@pytest.mark.slow
async def test_so_does_that_of_conversations_with_members() -> None:
    parts = ("about", "members", "members/{member}", "join", "mute")
    below = ("/v1/me/", *(f"/v1/conversations/{{topic}}/{part}" for part in parts))
    async with site(plugins={"conversations": {}}) as made:
        await made.caller().post("/conversations", json={"kind": "group", "topic": "conv/0"}, params={"user": "u/ann"})
        assert await asyncio.to_thread(explore, made.url, below) > 100


EVERYTHING: dict[str, Any] = {
    **{key: {} for key in ("jobs", "conversations", "presence", "schedules", "receipts", "recall", "acl", "accounts")},
    "rules": {"rules": [{"name": "hot", "topics": ["a/#"], "republish": "b/{rest}"}]},
}
_ENDS = frozenset({"/v1/cluster/{node}/leave", "/v1/reload"})
"""The first ends the broker; the second reads a file, and there is none."""


@pytest.mark.parametrize("caller", ["operator", "user"])
@pytest.mark.parametrize("examples", [2, pytest.param(30, marks=pytest.mark.slow)])
async def test_so_does_all_of_it_with_all_plugins(tmp_path: Path, caller: str, examples: int) -> None:
    """As the operator, and as a user who may do little of it; uploads (tus) and downloads of attachments too."""
    http = {**HTTP["http"], "operator_file": str(tmp_path / "operator.json"), "rate": 0}
    search = {"engine": "embedded", "path": str(tmp_path / "search.db")}
    attachments = {"directory": str(tmp_path / "attachments"), "max_files": 100_000, "max_unfinished": 1000}
    plugins = {**EVERYTHING, "http": http, "search": search, "attachments": attachments}
    async with site(f"sqlite:///{tmp_path}/t.db", plugins=plugins) as made:
        secret = (tmp_path / "operator.secret").read_text().strip()
        operator = made.caller(headers={"Authorization": f"Bearer {secret}"})
        assert (await operator.post("/users", json={"name": "0", "password": "0-password"})).status_code == 201
        who: dict[str, Any] = {"basic": ("0", "0-password")} if caller == "user" else {"secret": secret}
        calls = await asyncio.to_thread(explore, made.url, examples=examples, skipped=_ENDS, **who)
        assert calls > 60
        assert (await operator.get("/users")).status_code == 200


async def test_the_document_has_the_calls_of_attachments(tmp_path: Path) -> None:
    """Which are plain routes, and documented by hand."""
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"attachments": {}}) as made:
        paths = (await made.caller().get(f"{made.url}/openapi.json")).json()["paths"]
        assert set(paths["/v1/attachments"]) == {"get", "post", "options"}
        assert set(paths["/v1/attachments/{id}"]) == {"get", "head", "patch", "delete"}


@pytest.mark.slow
async def test_so_do_those_of_a_message() -> None:
    async with site(plugins={"receipts": {}}) as made:
        assert await asyncio.to_thread(explore, made.url, "/v1/messages/{message_id}") > 40


async def test_the_document_names_every_route(tour: Site) -> None:
    paths = (await tour.caller().get(f"{tour.url}/openapi.json")).json()["paths"]
    assert {
        "/v1/conversations",
        "/v1/conversations/{topic}/messages",
        "/v1/conversations/{topic}/position",
        "/v1/messages/{message_id}",
        "/v1/devices",
        "/v1/devices/{device}/offset",
        "/v1/sync",
        "/v1/sync/ack",
        "/v1/search",
        "/v1/tokens",
        "/v1/jobs",
        "/v1/jobs/{name}/run",
    } <= set(paths)
