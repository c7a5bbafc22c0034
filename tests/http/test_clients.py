"""`/v1/clients`, `/v1/subscriptions` and `/v1/retained`: who is there, what is kept, and their end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.packets import ReasonCode
from broker.packets.model import Disconnect
from plugins.http import HttpPlugin
from storage.factory import open_url
from storage.records import NEVER, Device, DeviceKey, OpenSession, Subscribe, Subscription
from tests.http.conftest import ACL, Site, site
from tests.support.cluster import Node, cluster
from tests.support.until import until


async def pages(http: httpx.AsyncClient, path: str, what: str, **asked: Any) -> list[dict[str, Any]]:
    """All that a list has, read in pages."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = (await http.get(path, params={**asked, "after": after})).json()
        found += page[what]
        if page["next"] is None:
            return found
        after = page["next"]


async def test_clients_are_listed_as_they_are(tour: Site) -> None:
    http = tour.caller()
    sensor = await tour.durable("sensor", 5, keep_alive=77)
    await sensor.subscribe("a/#", options=1)
    away = await tour.durable("away")
    await away.subscribe("a/+", options=2)
    await tour.lose(away, "away")
    clean = await tour.client("clean/1")
    await clean.publish("a/b", b"x", qos=1)
    await sensor.message(finish=False)
    one = (await http.get("/clients/sensor")).json()
    assert one["address"].startswith("127.0.0.1:")
    assert one["since"] > 1_700_000_000_000
    expected = {"protocol": "5", "connected": True, "durable": True, "keep_alive": 77, "listener": "tcp"}
    assert one | expected | {"subscriptions": 1, "lag": 1, "inflight_out": 1} == one
    found = await pages(http, "/clients", "clients", limit=2)
    assert [(row["client"], row["connected"], row["durable"]) for row in found] == [
        ("away", False, True),
        ("clean/1", True, False),
        ("sensor", True, True),
    ]
    assert found[0]["lag"] == 1
    assert [row["client"] for row in await pages(http, "/clients", "clients", connected="true")] == ["clean/1", "sensor"]
    assert [row["client"] for row in await pages(http, "/clients", "clients", connected="false")] == ["away"]
    assert [row["client"] for row in await pages(http, "/clients", "clients", user="c/away")] == ["away"]
    rows = await pages(http, "/subscriptions", "subscriptions", limit=1, topic="a/b")
    assert [(row["client"], row["filter"], row["qos"]) for row in rows] == [("away", "a/+", 2), ("sensor", "a/#", 1)]
    assert [row["client"] for row in await pages(http, "/subscriptions", "subscriptions", filter="a/#")] == ["sensor"]
    for client, filters in (("sensor", ["a/#"]), ("nobody", [])):
        of = {"user": "c/sensor", "client": client}
        assert [row["filter"] for row in await pages(http, "/subscriptions", "subscriptions", limit=1, **of)] == filters
        of = {"client": client}
        assert [row["filter"] for row in await pages(http, "/subscriptions", "subscriptions", limit=1, **of)] == filters
    assert (await http.get("/clients/nobody")).status_code == 404
    assert (await http.get("/clients", params={"after": "??"})).status_code == 422


async def test_a_page_costs_a_page_however_many_sessions_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    names = [f"d{number:04}" for number in range(2400)]
    keys = [DeviceKey("u/eve" if number % 2 else f"c/{name}", name) for number, name in enumerate(names)]
    shared = [DeviceKey(f"r/{name}", name) for name in names]
    storage = open_url(url)
    await storage.open()
    await storage.commit([OpenSession(key, 1, False, NEVER) for key in (*keys, *shared)])
    await storage.commit([Subscribe(key, 1, [Subscription(f"t/{key.client_id}", 1)]) for key in keys])
    await storage.close()
    keys.sort()
    async with site(url, plugins={}) as made:
        read: list[int] = []
        read_from, read_named = made.server.storage.devices_from, made.server.storage.devices_named

        async def counted(key: DeviceKey, limit: int) -> list[Device]:
            found = await read_from(key, limit)
            read.append(len(found))
            return found

        async def counted_named(client: str, user: str, limit: int) -> list[Device]:
            found = await read_named(client, user, limit)
            read.append(len(found))
            return found

        monkeypatch.setattr(made.server.storage, "devices_from", counted)
        monkeypatch.setattr(made.server.storage, "devices_named", counted_named)
        http = made.caller()
        await made.durable("here")
        everybody = sorted([*keys, DeviceKey("c/here", "here")])
        for path, what, name in (
            ("/clients", "clients", "client"),
            ("/devices", "devices", "device"),
            ("/subscriptions", "subscriptions", "client"),
        ):
            wanted = everybody if what != "subscriptions" else keys
            rows = await pages(http, path, what, limit=500)
            assert [(row["user"], row[name]) for row in rows] == wanted
            read.clear()
            page = (await http.get(path, params={"limit": 10})).json()
            assert [row[name] for row in page[what]] == [key.client_id for key in wanted[:10]]
            following = (await http.get(path, params={"limit": 10, "after": page["next"]})).json()
            assert [row[name] for row in following[what]] == [key.client_id for key in wanted[10:20]]
            assert sum(read) <= 30
        read.clear()
        assert (await http.get("/devices/d0077", params={"user": "u/eve"})).json()["device"] == "d0077"
        assert (await http.get("/clients/d0077", params={"user": "u/eve"})).json()["client"] == "d0077"
        for client, user in (("d0077", "u/eve"), ("d0078", "c/d0078"), ("here", "c/here")):
            assert (await http.get(f"/clients/{client}")).json()["user"] == user
        page = (await http.get("/clients", params={"user": "u/eve", "limit": 5})).json()
        assert [row["client"] for row in page["clients"]] == names[1:11:2]
        assert sum(read) <= 20
        # Few of many: all are looked at, in steps; what is found is complete.
        assert [row["client"] for row in await pages(http, "/clients", "clients", connected="true")] == ["here"]
        assert (await http.get("/clients/d0077")).json()["user"] == "u/eve"
        assert [row["client"] for row in await pages(http, "/subscriptions", "subscriptions", topic="t/d2399")] == ["d2399"]
        away = await pages(http, "/clients", "clients", connected="false", limit=500)
        assert [(row["user"], row["client"]) for row in away] == keys


async def test_a_kicked_client_is_told_and_may_come_back(tour: Site) -> None:
    http = tour.caller()
    sensor = await tour.durable("sensor", 5)
    await sensor.subscribe("a/#", options=1)
    assert (await http.delete("/clients/sensor")).json() == {"users": ["c/sensor"], "silent": []}
    told = [packet for packet in await sensor.closed() if isinstance(packet, Disconnect)]
    assert [packet.reason for packet in told] == [ReasonCode.ADMINISTRATIVE_ACTION]
    assert (await http.delete("/clients/sensor")).status_code == 404  # it is not connected
    assert (await http.get("/clients/sensor")).json()["subscriptions"] == 1
    assert (await http.delete("/clients/sensor", params={"forget": "true"})).status_code == 200
    assert (await http.get("/clients/sensor")).status_code == 404
    again = await tour.socket(5)
    assert not (await again.connect("sensor", clean=False, expiry=60)).session_present


async def test_retained_messages_are_listed_and_cleared_as_far_as_one_may(
    sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> None:
    acl = {ACL: {"publish_acl": {"alice": ["a/#"], "bob": ["#"]}, "acl": {"alice": ["a/#"], "bob": ["#"]}}}
    async with sites(f"sqlite:///{tmp_path}/t.db", acl) as site:
        alice, bob, nobody = site.caller("alice"), site.caller("bob"), site.caller()
        messages = [{"topic": t, "payload": t, "retain": True} for t in ("a", "a/1", "a/2", "ab", "b/1")]
        await bob.post("/messages", json=messages)
        topics = [row["topic"] for row in await pages(bob, "/retained", "messages", limit=2)]
        assert topics == ["a", "a/1", "a/2", "ab", "b/1"]
        assert [row["topic"] for row in await pages(bob, "/retained", "messages", filter="a/#")] == ["a", "a/1", "a/2"]
        assert [row["topic"] for row in await pages(bob, "/retained", "messages", filter="+/1")] == ["a/1", "b/1"]
        assert [row["payload"] for row in await pages(bob, "/retained", "messages", filter="a")] == ["a"]
        assert [row["topic"] for row in await pages(alice, "/retained", "messages")] == ["a/1", "a/2"]  # as amqtt takes a/#
        assert (await nobody.get("/retained")).status_code == 401
        assert (await bob.get("/retained", params={"filter": "a#"})).status_code == 422
        assert (await alice.delete("/retained/b/1")).status_code == 404
        assert (await alice.delete("/retained/a/1")).status_code == 204
        assert (await alice.delete("/retained/a/1")).status_code == 404
        late = await site.device("bob", "late")
        await late.subscribe("a/#", options=1)
        assert [message.topic for message in await late.messages(2)] == ["a", "a/2"]
        await late.quiet()
        assert (await alice.get("/clients")).status_code == 403


async def test_any_node_lists_and_kicks_the_clients_of_all() -> None:
    async with cluster(2, plugins={"http": {"bind": "127.0.0.1:0", "operator_file": ""}}) as made:
        one, other = made.nodes
        clean, durable = await one.client("clean", 5), await other.durable("durable", 5)
        await clean.subscribe("x/1", options=0)
        async with httpx.AsyncClient(base_url=api(one), timeout=30) as http:

            async def listed(path: str, what: str) -> list[str]:
                return [row["client"] for row in await pages(http, path, what)]

            # A node that starts, or is slow, is silent: what it has is missing then, and named.
            await until(lambda: _answered(http, "/clients"))
            await until(lambda: _equal(listed("/clients", "clients"), ["clean", "durable"]))
            async with httpx.AsyncClient(base_url=api(other), timeout=30) as there:
                rows = pages(there, "/subscriptions", "subscriptions", topic="x/1")
                assert [row["client"] for row in await rows] == ["clean"]
                assert (await there.delete("/clients/clean")).json()["users"] == ["c/clean"]
            assert any(isinstance(packet, Disconnect) for packet in await clean.closed())
            assert (await http.delete("/clients/durable", params={"forget": "true"})).status_code == 200
            assert any(isinstance(packet, Disconnect) for packet in await durable.closed())
            await until(lambda: _equal(listed("/clients", "clients"), []))


async def _equal(asked: Coroutine[Any, Any, list[str]], wanted: list[str]) -> bool:
    return await asked == wanted


async def _answered(http: httpx.AsyncClient, path: str) -> bool:
    return not (await http.get(path)).json()["silent"]


def api(node: Node) -> str:
    plugin = node.server.api.plugin(HttpPlugin)
    assert plugin is not None
    return "http://{}:{}/v1".format(*plugin.address)
