"""Who comes in, as whom, and what other sites' pages cannot do."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from tests.http.conftest import ACL, Site, site
from tests.support.auth_plugins import CountedAcl

Sites = Callable[..., AbstractAsyncContextManager[Site]]


async def test_on_loopback_without_users_a_caller_is_the_operator(tour: Site) -> None:
    phone = await tour.client("phone")
    await phone.publish("home/kitchen", b"21", qos=1)
    http = tour.caller()
    assert (await http.get("/me")).json() == {"user": "b/operator", "operator": True}
    assert (await http.get("/conversations/home/kitchen/messages")).json()["last"] == 1
    assert [c["topic"] for c in (await http.get("/conversations")).json()["conversations"]] == ["home/kitchen"]
    refused = await http.get("/me", auth=("phone", "whatever"))
    assert refused.status_code == 401


async def test_the_operator_acts_for_an_anonymous_device(tour: Site) -> None:
    phone = await tour.durable("phone")
    await phone.subscribe("home/#", options=1)
    await phone.leave()
    http = tour.caller()
    await http.post("/conversations/home/a/messages", json={"payload": "x"})
    page = (await http.get("/sync", params={"device": "phone"})).json()
    assert (page["user"], len(page["entries"])) == ("c/phone", 1)
    assert [d["device"] for d in (await http.get("/devices")).json()["devices"]] == ["phone"]
    assert (await http.delete("/devices/phone")).status_code == 204
    assert (await http.get("/devices/phone")).status_code == 404


async def test_a_user_ends_the_operator(users: Site) -> None:
    http = users.caller()
    answer = await http.get("/me")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Basic" in answer.headers["www-authenticate"]


async def test_a_listener_bound_elsewhere_ends_the_operator() -> None:
    listeners: Any = [{"name": "tcp", "type": "tcp", "bind": "0.0.0.0:0"}]
    async with site(plugins={}, listeners=listeners) as made:
        assert (await made.caller().get("/me")).status_code == 401


async def test_the_api_bound_elsewhere_ends_the_operator() -> None:
    async with site(plugins={"http": {"bind": "0.0.0.0:0", "operator_file": ""}}) as made:
        assert (await made.caller().get("/me")).status_code == 401


async def test_credentials(users: Site) -> None:
    assert (await users.caller("alice").get("/me")).json() == {"user": "u/alice", "operator": False}
    for _ in range(2):
        assert (await users.caller().get("/me", auth=("alice", "wrong"))).status_code == 401
        assert (await users.caller().get("/me", auth=("nobody", "alice-password"))).status_code == 401
    for header in (
        "Basic",
        "Basic !!",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Bearer x",
        "Bearer tl_x",
        "Nonsense",
    ):
        answer = await users.caller().get("/me", headers={"Authorization": header})
        assert answer.status_code == 401, header


async def test_tokens_are_issued_listed_and_revoked(users: Site) -> None:
    alice, bob = users.caller("alice"), users.caller("bob")
    issued = (await alice.post("/tokens", json={"label": "laptop", "lifetime": 60})).json()
    bearer = users.caller(headers={"Authorization": f"Bearer {issued['token']}"})
    assert (await bearer.get("/me")).json()["user"] == "u/alice"
    listed = (await alice.get("/tokens")).json()["tokens"]
    assert [(t["id"], t["label"]) for t in listed] == [(issued["id"], "laptop")]
    assert "token" not in listed[0]
    assert (await bob.get("/tokens")).json() == {"tokens": []}
    assert (await bob.delete(f"/tokens/{issued['id']}")).status_code == 404
    assert (await alice.delete(f"/tokens/{issued['id']}")).status_code == 204
    assert (await bearer.get("/me")).status_code == 401
    stored: Any = users.server.storage
    assert await stored.tokens("") == []


async def test_no_secret_is_stored(users: Site) -> None:
    issued = (await users.caller("alice").post("/tokens", json={})).json()
    stored: Any = users.server.storage
    (token,) = await stored.tokens("u/alice")
    assert issued["token"] not in str(token)


async def test_a_user_cannot_act_for_another(users: Site) -> None:
    bob = await users.device("bob", "phone")
    await bob.subscribe("x/#", options=1)
    http = users.caller("alice")
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/devices", {}),
        ("GET", "/devices/phone", {}),
        ("PUT", "/devices/phone/offset", {"json": {"offset": 0}}),
        ("DELETE", "/devices/phone", {}),
        ("GET", "/sync", {"params": {"device": "phone"}}),
        ("GET", "/conversations", {}),
    ]
    for method, path, options in calls:
        options = {**options, "params": {**options.get("params", {}), "user": "u/bob"}}
        assert (await http.request(method, path, **options)).status_code == 403, path
    assert (await http.get("/devices/phone")).status_code == 404
    assert (await users.caller("bob").get("/devices/phone")).json()["connected"] is True


async def test_the_guard(tour: Site) -> None:
    http = tour.caller()
    assert (await http.get("/me", headers={"Host": "evil.example"})).status_code == 421
    assert (await http.get("/me", headers={"Origin": "http://evil.example"})).status_code == 403
    assert (await http.get("/me", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    body = {"content": b'{"payload": "x"}'}
    plain = await http.post("/conversations/a/messages", headers={"Content-Type": "text/plain"}, **body)  # type: ignore[arg-type]
    assert plain.status_code == 415
    none = await http.post("/conversations/a/messages")
    assert none.status_code == 415
    bare = await http.put("/conversations/a/position")  # no page of another site can send one without asking
    assert bare.status_code == 422
    large = await http.post("/conversations/a/messages", json={"payload": "x" * (3 << 20)})
    assert large.status_code == 413

    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * (1 << 17)

    endless = await http.post("/conversations/a/messages", content=chunks(), headers={"Content-Type": "application/json"})
    assert endless.status_code == 413
    for answer in (plain, none, large, endless):
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await http.get(f"{tour.url}/docs")).status_code == 200
    preflight = await http.options("/me", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"})
    assert "access-control-allow-origin" not in preflight.headers


# --- nobody reads, finds or counts what is not theirs ------------------------------------------------------------------


async def assert_nothing_leaks(http: httpx.AsyncClient, topic: str, message_id: str) -> None:
    """Every way to a message answers as if it were not there."""
    paths = [
        f"/conversations/{topic}/messages",
        f"/conversations/{topic}/messages?before=99",
        f"/conversations/{topic}/messages?cursor=a.0.0",
        f"/conversations/{topic}/messages?since=2000-01-01T00:00:00Z",
        f"/conversations/{topic}/position",
        f"/messages/{message_id}",
        f"/messages/{message_id}/payload",
    ]
    for path in paths:
        answer = await http.get(path)
        assert answer.status_code == 404, path
        nowhere = await http.get(path.replace(topic, "never/was").replace(message_id, "0" * 16))
        assert nowhere.status_code == 404
        assert "payload" not in answer.json()
    assert (await http.put(f"/conversations/{topic}/position", json={"position": 1})).status_code == 404
    assert (await http.get("/conversations")).json() == {"conversations": [], "next": None}
    counted = await http.get("/search", params={"conversation": topic, "min_seq": 1, "wait": 0})
    assert counted.status_code == 404
    for query in (
        {"q": "treasure"},
        {"q": ""},
        {"q": "treasur"},
        {"conversation": topic},
        {"topic_filter": "#"},
        {"sender": "u/bob"},
    ):
        found = await http.get("/search", params=query)
        assert found.json() == {"hits": [], "total": 0, "total_exact": True, "next": None}, query


@pytest.mark.parametrize("acl", [False, True], ids=["no-acl", "acl"])
async def test_nothing_leaks(sites: Sites, tmp_path: Any, acl: bool) -> None:
    everything = {"alice": ["#"], "bob": ["#"], "eve": ["mine/#"]}
    plugins: dict[str, Any] = {"search": {"path": str(tmp_path / "search.db"), "gather": 0.0}}
    if acl:
        plugins[ACL] = {"publish_acl": everything, "acl": everything}
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins) as made:
        bob, eve = made.caller("bob"), made.caller("eve")
        posted = (await bob.post("/conversations/island/map/messages", json={"payload": "the treasure"})).json()
        found = await bob.get("/search", params={"q": "treasure", "wait_indexed": posted["id"], "wait": 60})
        assert found.json()["total"] == 1
        assert "<mark>treasure</mark>" in found.json()["hits"][0]["highlight"]
        await assert_nothing_leaks(eve, "island/map", posted["id"])
        known = int(posted["id"], 16)
        for other in (known, known - 1, known + 1, 1, (1 << 63) - 1):  # neither whether it is there nor how far the index is
            asked = await eve.get("/search", params={"q": "x", "wait_indexed": f"{other:016x}", "wait": 0})
            assert asked.status_code == 404
            assert asked.json()["detail"].partition(":")[2] == " there is none, or you may not read it"
        assert (await eve.get("/search", params={"conversation": "island/map", "min_seq": 1})).status_code == 404
        if acl:
            assert (await eve.post("/conversations/island/map/messages", json={"payload": "x"})).status_code == 403
            phone = await made.device("eve", "phone")
            answer = await eve.post("/devices/phone/subscriptions", json={"filter": "island/#"})
            assert answer.status_code == 403
            await phone.drop()
        else:
            assert (await eve.post("/conversations/island/map/messages", json={"payload": "x"})).status_code == 201
            assert (await eve.get("/conversations/island/map/messages")).json()["last"] == 2


async def test_a_search_asks_the_acl_about_what_it_finds(sites: Sites, tmp_path: Any) -> None:
    rules = {"alice": ["#"], "bob": ["town/+", "none"]}
    plugins: dict[str, Any] = {
        "search": {"path": str(tmp_path / "search.db"), "gather": 0.0},
        "tests.support.auth_plugins.CountedAcl": {"publish_acl": rules, "acl": rules},
    }
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        for number in range(60):
            said = "common" + " rare" * (number % 20 == 0)
            place = "town" if number % 40 else "castle"
            posted = await alice.post(f"/conversations/{place}%2F{number}/messages", json={"payload": said})
        await alice.get("/search", params={"q": "common", "wait_indexed": posted.json()["id"], "wait": 60})
        acl = made.server.api.plugin(CountedAcl)
        assert acl is not None
        acl.asked.clear()
        found = (await bob.get("/search", params={"q": "rare"})).json()
        assert ([hit["topic"] for hit in found["hits"]], found["total"], found["total_exact"]) == (["town/20"], 1, True)
        assert {topic for _, topic in acl.asked} == {"castle/0", "town/20", "castle/40"}
        assert len(acl.asked) <= 6, "whether bob may subscribe to it, and whether he may receive it"
        acl.asked.clear()
        again = (await bob.get("/search", params={"q": "rare"})).json()
        assert again == found
        assert acl.asked == [], "answers are kept for a while"


async def test_who_speaks_no_http_is_named_and_counted(tour: Site, caplog: pytest.LogCaptureFixture) -> None:
    host, port = tour.url.removeprefix("http://").split(":")
    expected = {
        b"\x16\x03\x01\x00\x05hello\r\n\r\n": "TLS, where plain HTTP is expected",
        b"GET nonsense\r\n\r\n": "a request that is not valid HTTP",
    }
    for data, why in expected.items():
        reader, writer = await asyncio.open_connection(host, int(port))
        ours = "{}:{}".format(*writer.get_extra_info("sockname"))
        writer.write(data)
        assert b"400" in await reader.readline()
        writer.close()
        assert f"listener http: {ours}: {why}" in caplog.messages
    assert tour.server.counters.handshakes_failed == 2
    assert "Invalid HTTP request" not in caplog.text


async def test_the_log_names_an_http_caller_with_its_address(users: Site, caplog: pytest.LogCaptureFixture) -> None:
    wrong = httpx.BasicAuth("bob", "wrong")
    assert (await users.caller().get("/me", auth=wrong)).status_code == 401
    assert "HTTP caller at 127.0.0.1, user 'bob': refused: FileAuthPlugin said no" in caplog.text
    assert "$http" not in caplog.text
