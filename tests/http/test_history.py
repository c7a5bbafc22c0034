"""History pages, counts, payloads and bad input."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tests.http.conftest import Site
from tests.support.until import until


async def texts(http: Any, **params: Any) -> list[str]:
    answer = await http.get("/conversations/t/messages", params=params)
    assert answer.status_code == 200, answer.text
    return [m["payload"] for m in answer.json()["messages"]]


@pytest.fixture
async def http(users: Site) -> Any:
    client = users.caller("alice")
    for number in range(1, 11):
        await client.post("/conversations/t/messages", json={"payload": str(number)})
    return client


async def test_both_directions_by_sequence(http: Any) -> None:
    assert await texts(http, limit=3) == ["10", "9", "8"]
    assert await texts(http, after=7) == ["8", "9", "10"]
    assert await texts(http, after=0, limit=2) == ["1", "2"]
    assert await texts(http, before=4) == ["3", "2", "1"]
    assert await texts(http, before=4, order="oldest") == ["1", "2", "3"]
    assert await texts(http, after=3, before=6) == ["4", "5"]
    assert await texts(http, after=3, before=4) == []


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 3, 5, 10, 11])
async def test_pages_cover_everything_once(http: Any, order: str, limit: int) -> None:
    found: list[str] = []
    params: dict[str, Any] = {"order": order, "limit": limit}
    for _ in range(12):
        page = (await http.get("/conversations/t/messages", params=params)).json()
        found += [m["payload"] for m in page["messages"]]
        if page["next"] is None:
            break
        params = {"cursor": page["next"], "limit": limit}
    expected = [str(n) for n in range(1, 11)]
    assert found == (expected if order == "oldest" else expected[::-1])


async def test_by_time(http: Any) -> None:
    messages = (await http.get("/conversations/t/messages", params={"order": "oldest"})).json()["messages"]
    middle = messages[5]["time"]
    since = await texts(http, since=middle)
    assert since == [m["payload"] for m in messages if m["time"] >= middle]
    until = await texts(http, until=middle, order="oldest")
    assert until == [m["payload"] for m in messages if m["time"] < middle]


async def test_an_entity_tag_spares_the_body(http: Any) -> None:
    first = await http.get("/conversations/t/messages")
    again = await http.get("/conversations/t/messages", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    await http.post("/conversations/t/messages", json={"payload": "new"})
    changed = await http.get("/conversations/t/messages", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200


@pytest.mark.parametrize("path", ["", "/t/messages?after=3", "/t/position"])
async def test_each_answer_about_conversations_has_a_tag_that_changes_with_it(http: Any, path: str) -> None:
    tag = (await http.get(f"/conversations{path}")).headers["etag"]
    assert (await http.get(f"/conversations{path}", headers={"If-None-Match": tag})).status_code == 304
    await http.post("/conversations/t/messages", json={"payload": "new"})
    assert (await http.get(f"/conversations{path}", headers={"If-None-Match": tag})).status_code == 200


async def test_a_key_used_many_times_at_once_stores_once(http: Any) -> None:
    posts = [http.post("/conversations/t/messages", json={"payload": "x"}, headers={"Idempotency-Key": "k"}) for _ in range(20)]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await texts(http, limit=100)).count("x") == 1


async def test_an_expired_message_is_in_no_page_and_no_count(http: Any) -> None:
    await http.post("/conversations/t/messages", json={"payload": "soon gone", "expiry": 1})
    assert (await http.get("/conversations/t/position")).json()["unread"] == 11

    async def gone() -> bool:
        return "soon gone" not in await texts(http)

    await until(gone)
    assert (await http.get("/conversations/t/position")).json()["unread"] == len(await texts(http, limit=100)) == 10


async def test_unread_is_what_a_recount_gives(http: Any) -> None:
    for position, back in [(3, False), (7, False), (5, False), (2, True), (99, False)]:
        state = (await http.put("/conversations/t/position", json={"position": position, "back": back})).json()
        after = await texts(http, after=state["position"], limit=100)
        assert state["unread"] == len(after)
    mine = (await http.get("/conversations")).json()["conversations"][0]
    assert (mine["position"], mine["unread"]) == (10, 0)


@pytest.mark.parametrize(
    ("payload", "encoding", "value"),
    [
        (b"plain", "text", "plain"),
        ("日本語".encode(), "text", "日本語"),
        (b'{"a": [1, 2.5, null]}', "json", {"a": [1, 2.5, None]}),
        (b"[1, 1e400]", "text", "[1, 1e400]"),
        (b'{"a": NaN}', "text", '{"a": NaN}'),
        (b'{"a": 1, "a": 2}', "text", '{"a": 1, "a": 2}'),
        (b"[" * 100_000, "text", "[" * 100_000),
        (b'["\\ud800"]', "json", ["\ud800"]),
        (b"\x00\xff", "base64", base64.b64encode(b"\x00\xff").decode()),
        (b"", "text", ""),
    ],
)
async def test_payloads_come_as_they_are(users: Site, payload: bytes, encoding: str, value: Any) -> None:
    phone = await users.device("alice", "phone")
    await phone.publish("p", payload, qos=1)
    http = users.caller("alice")
    answer = await http.get("/conversations/p/messages")
    assert answer.status_code == 200
    (message,) = answer.json()["messages"]
    assert (message["encoding"], message["payload"]) == (encoding, value)
    assert (await http.get(f"/messages/{message['id']}/payload")).content == payload


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/conversations/t/messages?after=-1", {}),
        ("GET", "/conversations/t/messages?after=99999999999999999999999", {}),
        ("GET", "/conversations/t/messages?limit=0", {}),
        ("GET", "/conversations/t/messages?since=yesterday", {}),
        ("GET", "/conversations/t/messages?since=2026-01-01", {}),
        ("GET", "/conversations/t/messages?cursor=%00", {}),
        ("GET", "/conversations/a%00b/messages", {}),
        ("GET", "/conversations/a%2F%23/messages", {}),
        ("GET", "/conversations//messages", {}),
        ("GET", "/conversations/%FF%FE/messages", {}),
        ("GET", "/messages/zz", {}),
        ("GET", "/messages/ffffffffffffffff", {}),
        ("GET", "/sync", {}),
        ("GET", "/sync?device=", {}),
        ("GET", "/sync?device=a%00", {}),
        ("GET", "/sync?device=a&wait=nan", {}),
        ("GET", "/sync?device=a&epoch=0", {}),
        ("POST", "/sync/ack", {"json": {"device": "none", "epoch": 1, "offset": 1}}),
        ("POST", "/sync/ack", {"json": {"device": "none", "epoch": True, "offset": 1}}),
        ("POST", "/conversations/t/messages", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/conversations/t/messages", {"content": b"\xff", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/conversations/t/messages", {"content": b"[" * 50000, "headers": {"Content-Type": "application/json"}}),
        ("POST", "/conversations/t/messages", {"json": {}}),
        ("POST", "/conversations/t/messages", {"json": {"payload": 5}}),
        ("POST", "/conversations/t/messages", {"json": {"payload": "%", "encoding": "base64"}}),
        ("POST", "/conversations/t/messages", {"json": {"payload": "x", "qos": 3}}),
        ("POST", "/conversations/t/messages", {"json": {"payload": "x", "unknown": 1}}),
        ("POST", "/conversations/t/messages", {"json": {"payload": "x", "content_type": "\u0000"}}),
        (
            "POST",
            "/conversations/t/messages",
            {"content": b'{"payload": "\\ud800"}', "headers": {"Content-Type": "application/json"}},
        ),
        ("POST", "/conversations/t/messages", {"json": {"payload": "x" * (1 << 20)}}),
        ("POST", "/conversations/%24SYS/x/messages", {"json": {"payload": "x"}}),
        ("POST", "/conversations/%24sync/request/messages", {"json": {"payload": "x"}}),
        ("POST", "/conversations/" + "a/" * 200 + "/messages", {"json": {"payload": "x"}}),
        ("PUT", "/devices/none/offset", {"json": {"offset": 1}}),
        ("PUT", "/conversations/t/position", {"json": {"position": "1"}}),
        ("POST", "/devices/none/subscriptions", {"json": {"filter": "a/#/b"}}),
        ("DELETE", "/devices/none/subscriptions", {}),
        ("DELETE", "/tokens/none", {}),
        ("POST", "/tokens", {"json": {"lifetime": 10**30}}),
        ("GET", "/search?q=x&cursor=zzz", {}),
        ("GET", "/search?min_seq=1", {}),
        ("PATCH", "/me", {"json": {}}),
        ("GET", "/nothing", {}),
    ],
)
async def test_bad_input_is_told_and_never_our_fault(users: Site, method: str, path: str, options: dict[str, Any]) -> None:
    answer = await users.caller("alice").request(method, path, **options)
    assert 400 <= answer.status_code < 500 or (path.startswith("/search") and answer.status_code == 503), answer.text
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["status"] == answer.status_code
