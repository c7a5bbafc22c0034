"""Search over plain MQTT: within all that the device may search, and as HTTP finds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from tests.http.conftest import ACL, Site
from tests.http.conftest import passwords as passwords
from tests.http.conftest import sites as sites
from tests.support.wire import Client

Make = Callable[..., AbstractAsyncContextManager[Site]]

RULES = {"alice": ["#"], "bob": ["town/+", "none"]}


async def places(made: Site) -> None:
    """Alice says "common" in five places, two of which are not Bob's; and all of it is indexed."""
    alice = made.caller("alice")
    for number, place in enumerate(("town", "castle", "town", "castle", "town")):
        posted = await alice.post(f"/conversations/{place}%2F{number}/messages", json={"payload": f"common {number}"})
    await alice.get("/search", params={"q": "common", "wait_indexed": posted.json()["id"], "wait": 60})


async def ask(client: Client, **fields: Any) -> Any:
    await client.publish("$sync/request", json.dumps({"op": "search", **fields}).encode(), qos=1)
    return json.loads((await client.message()).payload)


def plugins(folder: Any) -> dict[str, Any]:
    return {"search": {"path": str(folder / "search.db"), "gather": 0.0}, ACL: {"publish_acl": RULES, "acl": RULES}}


async def test_a_device_searches_all_that_it_may_read(sites: Make, tmp_path: Any) -> None:
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins(tmp_path)) as made:
        await places(made)
        phone = await made.device("bob", "phone")
        await phone.subscribe("$sync/reply/phone", options=1)
        found = await ask(phone, q="common", sort="oldest", limit=2)
        assert [hit["topic"] for hit in found["hits"]] == ["town/0", "town/2"]
        assert (found["total"], found["total_exact"]) == (3, True)
        last = await ask(phone, q="common", sort="oldest", limit=2, cursor=found["next"])
        assert ([hit["topic"] for hit in last["hits"]], last["next"]) == (["town/4"], None)
        over_http = await made.caller("bob").get("/search", params={"q": "common", "sort": "newest"})
        assert (await ask(phone, q="common", sort="newest"))["hits"] == over_http.json()["hits"]


async def test_filters_leave_hits_out(sites: Make, tmp_path: Any) -> None:
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins(tmp_path)) as made:
        await places(made)
        phone = await made.device("bob", "phone")
        await phone.subscribe("$sync/reply/phone", options=1)
        (one,) = (await ask(phone, q="common", topic="town/2"))["hits"]
        assert "<mark>common</mark>" in one["highlight"]
        assert [hit["id"] for hit in (await ask(phone, topic_filter="+/2"))["hits"]] == [one["id"]], "without words"
        assert (await ask(phone, q="common", sender="u/alice"))["total"] == 3
        assert (await ask(phone, q="common", sender="u/bob"))["total"] == 0
        assert (await ask(phone, q="common", since=one["time"] + 3_600_000))["total"] == 0
        assert (await ask(phone, q="common", until=one["time"] - 3_600_000))["total"] == 0
        assert (await ask(phone, q="common", topic="castle/1"))["error"]["status"] == 404


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sort": "best"}, "sort 'best': must be relevance, newest or oldest"),
        ({"sender": "alice"}, "sender 'alice': must be u/<user name> or c/<client id>"),
        ({"limit": 101}, "limit: 101 must be a whole number of 1 to 100"),
        ({"since": "today"}, "since: 'today' must be a whole number"),
        ({"topic_filter": "a/#/b"}, "a/#/b"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"q": "x" * 1001}, "q has 1001 characters: at most 1000"),
        ({"conversation": "a"}, "conversation: unknown field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_cannot_be_asked_is_refused_by_name(sites: Make, tmp_path: Any, fields: dict[str, Any], told: str) -> None:
    async with sites(f"sqlite:///{tmp_path}/t.db", plugins(tmp_path)) as made:
        phone = await made.device("bob", "phone")
        await phone.subscribe("$sync/reply/phone", options=1)
        error = (await ask(phone, **fields))["error"]
        assert error["status"] == 422
        assert told in error["detail"]
