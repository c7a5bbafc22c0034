"""What a call does not take is refused by name, and what people type is taken."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from broker.packets.properties import Property
from plugins.http.models import NewTopicMessage
from tests.http.conftest import Site


async def raw(site: Site, *pieces: bytes) -> list[tuple[int, Any]]:
    """Send bytes over one connection, each piece once the answer before it is there; the answers."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answers = []
    for piece in pieces:
        writer.write(piece)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        answers.append((int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body))
    writer.close()
    return answers


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


# --- UTF-8 -----------------------------------------------------------------------------------------------------------


async def test_raw_utf_8_in_a_path_or_query_is_taken(tour: Site) -> None:
    http = tour.caller()
    await http.post("/conversations/grüße/会议/messages", json={"payload": "🌊"})
    path = "/v1/conversations/grüße/会议/messages"
    device = "/v1/devices?user=u/zoë"
    found = await raw(tour, get(path), get(device), get("/v1/me"), get(path + "?limit=1"))
    assert [status for status, _ in found] == [200, 200, 200, 200]
    assert [m["payload"] for m in found[0][1]["messages"]] == ["🌊"]


async def test_raw_utf_8_is_taken_however_the_request_is_cut(tour: Site) -> None:
    await tour.caller().post("/conversations/会/messages", json={"payload": "x"})
    host, _, port = tour.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in get("/v1/conversations/会/messages", "X-Note: é"):
        writer.write(bytes((byte,)))
        await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/conversations/caf%E9/messages", "path: '%E9' is not UTF-8"),
        ("/v1/conversations/a%C3/messages", "path: '%C3' is not UTF-8"),
        ("/v1/devices/d%FF", "path: '%FF' is not UTF-8"),
        ("/v1/conversations?after=%E9", "query: '%E9' is not UTF-8"),
        ("/v1/conversations?af%E9=1", "query: '%E9' is not UTF-8"),
    ],
)
async def test_what_is_not_utf_8_is_refused_and_never_stored_as_something_else(tour: Site, path: str, told: str) -> None:
    ((status, problem),) = await raw(tour, get(path))
    assert status == 422
    assert told in problem["detail"]
    body = b'{"payload":"x"}'
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert [status for status, _ in await raw(tour, head.encode() + body)] == [422]
    assert (await tour.caller().get("/conversations")).json()["conversations"] == []


async def test_raw_bytes_that_are_not_utf_8_are_told_so(tour: Site) -> None:
    ((status, problem),) = await raw(tour, b"GET /v1/conversations?after=caf\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (status, problem["detail"]) == (422, "query: '%E9' is not UTF-8, percent-encoded")


async def test_a_body_that_is_not_utf_8_is_refused(tour: Site) -> None:
    http = tour.caller()
    answer = await http.post(
        "/conversations/a/messages", content=b'{"payload": "caf\xe9"}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert "UTF-8" in answer.json()["detail"]


async def test_a_body_that_cannot_be_read_is_told_why(tour: Site) -> None:
    """However deep it is: Python's own limit depends on how deep the call is."""
    http, headers = tour.caller(), {"Content-Type": "application/json"}
    path = "/conversations/a/messages"
    answer = await http.post(path, content=b'{"payload": %s}' % (b"9" * 5000), headers=headers)
    assert (answer.status_code, "more than 4300 digits" in answer.json()["detail"]) == (400, True)
    answer = await http.post(path, content=b'{"payload": "\\ud800", "content_type": "\\ud800"}', headers=headers)
    assert (answer.status_code, "must be valid Unicode" in answer.json()["detail"]) == (422, True)
    for depth in range(850, 1000, 3):
        content = b'{"encoding": "json", "payload": %s}' % (b"[" * depth + b"]" * depth)
        answer = await http.post(path, content=content, headers=headers)
        assert answer.status_code == 201 or "nested too deeply" in answer.json()["detail"], (depth, answer.text)


async def test_an_idempotency_key_is_the_same_over_mqtt_and_http(tour: Site) -> None:
    """Also one that is not ASCII: headers are bytes, and ours are UTF-8."""
    phone = await tour.client("phone", 5)
    await phone.publish("a", b"x", qos=1, properties={Property.USER_PROPERTY: [("message-id", "ключ")]})
    http = tour.caller()
    path, key = "/conversations/a/messages", "ключ".encode()
    for user, expected in (("c/phone", 200), ("c/other", 201), ("c/other", 200)):
        answer = await http.post(path, json={"payload": "x"}, params={"user": user}, headers={b"Idempotency-Key": key})
        assert answer.status_code == expected, answer.text
    refused = await http.post(path, json={"payload": "x"}, headers={b"Idempotency-Key": b"\xe9"})
    assert refused.status_code == 422
    assert "Idempotency-Key" in refused.json()["detail"]


# --- what a call does not take ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/conversations/a/messages?aftr=1", "aftr: unknown query parameter, did you mean 'after'?"),
        ("GET", "/conversations/a/messages?after=1&zebra=1", "zebra: unknown query parameter; there is "),
        ("GET", "/conversations?user=u/alice&offset=3", "offset: unknown query parameter; there is "),
        ("POST", "/tokens?user=u/alice", "user: unknown query parameter; this call takes none"),
        ("GET", "/me?user=u/alice", "user: unknown query parameter; this call takes none"),
        ("DELETE", "/devices/phone/subscriptions?filtr=a", "filtr: unknown query parameter, did you mean 'filter'?"),
        ("GET", "/search?query=x", "query: unknown query parameter"),
        ("GET", "/jobs?x=1", "x: unknown query parameter; this call takes none"),
        ("GET", "/health?verbose=1", "verbose: unknown query parameter; this call takes none"),
        ("GET", "/conversations?limit=1&limit=2", "limit: given 2 times; this call takes one"),
    ],
)
async def test_an_unknown_parameter_is_refused_by_name(tour: Site, method: str, path: str, told: str) -> None:
    answer = await tour.caller().request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


async def test_no_token_is_made_for_somebody_else_than_asked(tour: Site) -> None:
    http = tour.caller()
    await http.post("/tokens?user=u/alice", json={})
    assert (await http.get("/tokens")).json()["tokens"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        (
            "POST",
            "/conversations/a/messages",
            {"payload": "x", "retian": True},
            "retian: unknown field, did you mean 'retain'?",
        ),
        ("PUT", "/conversations/a/position", {"position": 1, "seq": 1}, "seq: unknown field; there is position, back"),
        ("POST", "/tokens", {"user": "u/alice"}, "user: unknown field; there is label, lifetime"),
        ("PUT", "/conversations/a/position", {"position": None}, "position: null must be"),
        ("PUT", "/conversations/a/position", {"position": True}, "position: true must be"),
        ("POST", "/jobs/retention/run", {"dry": True}, "dry: unknown field; this call takes none"),
        ("POST", "/search/reindex", {"conversation": "a"}, "conversation: unknown field; this call takes none"),
        ("DELETE", "/devices/phone", {"filter": "a"}, "filter: unknown field; this call takes none"),
    ],
)
async def test_a_field_is_refused_by_name_and_with_its_value_as_json_spells_it(
    tour: Site, method: str, path: str, body: Any, told: str
) -> None:
    answer = await tour.caller().request(method, path, json=body)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


async def test_a_field_that_is_given_twice_is_refused(tour: Site) -> None:
    answer = await tour.caller().post(
        "/conversations/a/messages",
        content=b'{"payload": "one", "payload": "two"}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (400, 422)
    assert "payload: given twice" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/conversations?limit=1000", "query.limit: '1000' must be at most 500"),
        ("/conversations?limit=some", "query.limit: 'some' must be a whole number"),
        ("/conversations/a/messages?order=up", "query.order: 'up' must be 'oldest' or 'newest'"),
        ("/sync?device=d&takeover=perhaps", "query.takeover: 'perhaps' must be true or false"),
        ("/sync", "query.device is missing"),
        ("/search?sender=alice", "sender 'alice': must be u/<user name> or c/<client id>"),
        ("/conversations?user=alice", "user 'alice': must be u/<user name> or c/<client id>"),
    ],
)
async def test_a_wrong_value_is_told_with_what_would_be_right(tour: Site, path: str, told: str) -> None:
    answer = await tour.caller().get(path)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


# --- what people try -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"payload": {"a": 1}},
            'payload: must be a string where encoding is text; other JSON needs "encoding": "json"',
        ),
        ({}, "body.payload is missing"),
        ({"payload": "x", "qos": 3}, "body.qos: 3 must be at most 2"),
        ({"payload": "x", "qos": "1"}, "body.qos: '1' must be a whole number"),
        ({"payload": "x", "encoding": "hex"}, "body.encoding: 'hex' must be 'text', 'json' or 'base64'"),
        ({"payload": "x", "properties": [["a"]]}, "body.properties[0]: a list needs at least 2 items"),
        (["payload"], "body: a list must be an object"),
    ],
)
async def test_a_wrong_message_is_told_with_what_would_be_right(tour: Site, body: Any, told: str) -> None:
    answer = await tour.caller().post("/conversations/a/messages", json=body)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


async def test_head_is_get_without_the_body(tour: Site) -> None:
    http = tour.caller()
    await http.post("/conversations/a/messages", json={"payload": "x"})
    for path in (
        "/conversations/a/messages",
        "/conversations",
        "/health",
        "/devices",
        f"{tour.url}/docs",
        f"{tour.url}/openapi.json",
    ):
        got, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert (await http.head("/devices/nobody")).status_code == 404
    assert (await http.head("/sync?device=d")).status_code == 405
    assert (await http.get("/devices")).json()["devices"] == []


async def test_the_document_says_what_each_field_is(tour: Site) -> None:
    document = (await tour.caller().get(f"{tour.url}/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            assert 5 < len(call["summary"]) < 120, (path, method)
            assert call["summary"].split()[0] in call["description"]
    for name, schema in document["components"]["schemas"].items():
        if schema.get("additionalProperties") is False:  # a body
            assert all("description" in field for field in schema["properties"].values()), name


def test_the_documentation_names_every_field_of_a_new_message() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()
    assert {line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4} >= set(
        NewTopicMessage.model_fields
    )
