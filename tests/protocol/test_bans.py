"""Bans: by user, client id and address; at CONNECT, on who is connected, over HTTP, on each node, and after a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import httpx
import pytest
from amqtt.plugins.base import BaseAuthPlugin

from broker.access import KIND, Ban, Bans, network
from broker.packets import ReasonCode
from broker.packets.model import Disconnect
from plugins.http import HttpPlugin
from storage.records import SaveSetting
from tests.support.broker import Broker, running
from tests.support.cluster import cluster
from tests.support.storages import url
from tests.support.wire import Client

__all__ = ["url"]

HTTP = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}}


def caller(broker: Broker) -> httpx.AsyncClient:
    plugin = broker.server.api.plugin(HttpPlugin)
    assert plugin is not None
    return httpx.AsyncClient(base_url="http://{}:{}/v1".format(*plugin.address), timeout=30)


async def refused(broker: Broker, client_id: str, version: int) -> int:
    client = await broker.socket(version)
    return (await client.connect(client_id)).reason


async def ended(client: Client) -> list[int]:
    async with asyncio.timeout(60):
        return [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)]


async def test_a_ban_ends_connections_and_refuses_new_ones_until_it_is_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with running(url, plugins=HTTP) as broker, caller(broker) as http:
        bad, good = await broker.durable("bad", 5), await broker.client("good", 5)
        made = await http.post("/bans", json={"client": "bad", "reason": "floods"})
        assert made.status_code == 201
        assert made.json() | {"id": "client:bad", "kind": "client", "what": "bad", "until": None} == made.json()
        assert await ended(bad) == [ReasonCode.ADMINISTRATIVE_ACTION]
        await good.ping()
    async with running(url, plugins=HTTP) as broker, caller(broker) as http:
        assert await refused(broker, "bad", 5) == ReasonCode.BANNED
        assert await refused(broker, "bad", 4) == 5
        assert await refused(broker, "good", 5) == 0
        assert [ban["id"] for ban in (await http.get("/bans")).json()["bans"]] == ["client:bad"]
        assert (await http.delete("/bans/client:bad")).status_code == 204
        assert (await http.delete("/bans/client:bad")).status_code == 404
        assert await refused(broker, "bad", 5) == 0
        # A user, and everybody from here but the operator.
        user = await broker.client("user", 5)
        assert (await http.post("/bans", json={"user": "c/user"})).status_code == 201
        assert await ended(user) == [ReasonCode.ADMINISTRATIVE_ACTION]
        assert await refused(broker, "user", 5) == ReasonCode.BANNED
        good = await broker.client("good", 5)
        assert (await http.post("/bans", json={"address": "127.0.0.0/8", "seconds": 3600})).json()["until"] > 0
        assert await ended(good) == [ReasonCode.ADMINISTRATIVE_ACTION]
        assert await refused(broker, "good", 5) == ReasonCode.BANNED
        assert (await http.get("/me")).json()["operator"]


class Doubtful(BaseAuthPlugin):
    """Knows nobody, and counts who asks."""

    asked: ClassVar[int] = 0

    async def authenticate(self, *, session: object) -> bool:
        Doubtful.asked += 1
        return False


async def test_who_is_banned_is_told_so_whatever_password_it_has() -> None:
    """So that guessing costs the broker no hash."""
    async with running(plugins={f"{__name__}.Doubtful": {}}) as broker:
        ban = Ban("client", "bad")
        await broker.server.api.commit([SaveSetting(KIND, ban.key, ban.value())], 10)
        assert await refused(broker, "bad", 5) == ReasonCode.BANNED
        assert Doubtful.asked == 0
        assert await refused(broker, "good", 5) == ReasonCode.NOT_AUTHORIZED
        assert Doubtful.asked == 1


@pytest.mark.parametrize("url", ["sqlite", "mongodb"], indirect=True)
async def test_whose_name_is_as_long_as_may_be_is_banned_and_let_in_again(url: str) -> None:
    names = ["a" * 60_000, "ä" * 10_000]  # what the client takes in a URL; the broker takes all that MQTT can say
    async with running(url, plugins=HTTP) as broker, caller(broker) as http:
        for kind, name in (("user", f"c/{names[0]}"), ("client", names[0]), ("client", names[1])):
            client = await broker.client(name.removeprefix("c/"), 5)
            made = await http.post("/bans", json={kind: name})
            assert made.status_code == 201, made.text[:500]
            assert made.json()["what"] == name
            assert await ended(client) == [ReasonCode.ADMINISTRATIVE_ACTION]
            assert await refused(broker, name.removeprefix("c/"), 5) == ReasonCode.BANNED
            page = (await http.get("/bans", params={"limit": 1})).json()
            assert [ban["id"] for ban in page["bans"]] == [f"{kind}:{name}"]
            assert (await http.get("/bans", params={"after": f"{kind}:{name}"})).json()["bans"] == []
            assert (await http.delete(f"/bans/{quote(f'{kind}:{name}')}")).status_code == 204
            assert await refused(broker, name.removeprefix("c/"), 5) == 0
        assert (await http.post("/bans", json={"user": f"c/{'a' * 65_535}"})).status_code == 201
        assert (await http.post("/bans", json={"user": f"c/{'a' * 65_536}"})).status_code == 422


async def test_a_ban_of_one_node_holds_on_the_others() -> None:
    async with cluster(2, plugins=HTTP) as made, caller(made.nodes[0]) as http:
        there = await made.nodes[1].client("there", 5)
        assert (await http.post("/bans", json={"client": "there"})).status_code == 201
        assert await ended(there) == [ReasonCode.ADMINISTRATIVE_ACTION]
        assert await refused(made.nodes[1], "there", 5) == ReasonCode.BANNED


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "exactly one of user, client and address"),
        ({"client": "a", "user": "u/a"}, "exactly one"),
        ({"address": "10.0.0.1/8"}, "host bits"),
        ({"address": "nowhere"}, "192.0.2.0/24"),
        ({"user": "alice"}, "u/<user name>"),
    ],
)
async def test_what_is_no_ban_is_told(body: dict[str, str], told: str) -> None:
    async with running(plugins=HTTP) as broker, caller(broker) as http:
        answer = await http.post("/bans", json=body)
        assert answer.status_code == 422
        assert told in answer.json()["detail"]


async def test_bans_are_listed_in_pages() -> None:
    names = [f"client:c{number:03}" for number in range(250)]
    async with running(plugins=HTTP) as broker, caller(broker) as http:
        made = [Ban("client", name.partition(":")[2], until=1 if number == 120 else 0) for number, name in enumerate(names)]
        await broker.server.api.commit([SaveSetting(KIND, ban.key, ban.value()) for ban in made], 10)
        found, after = [], ""
        while after is not None:
            page = (await http.get("/bans", params={"after": after})).json()
            assert len(page["bans"]) <= 100
            found += [ban["id"] for ban in page["bans"]]
            after = page["next"]
        assert found == names[:120] + names[121:]  # one is over


def test_addresses_in_every_spelling() -> None:
    bans = Bans()
    made = [Ban("address", "192.0.2.0/24"), Ban("address", "2001:db8::/32", until=1000), Ban("user", "u/a", until=5)]
    bans.put({ban.key: ban.value() for ban in made})
    assert bans.of(1, address="192.0.2.7")
    assert bans.of(1, address="::ffff:192.0.2.7")
    assert bans.of(1, address="[2001:db8::1]")
    assert bans.of(1000, address="2001:db8::1") is None  # it is over
    assert bans.of(1, address="2001:db8::1%eth0")
    assert bans.of(1, address="2001:db9::1%eth0") is None
    assert bans.of(1, address="a/unix/socket") is None
    assert bans.of(4, user="u/a")
    assert bans.of(5, user="u/a") is None
    assert str(network("::ffff:192.0.2.0/120")) == "192.0.2.0/24"


def test_a_stored_ban_that_cannot_be_read_is_logged_and_the_others_hold(caplog: pytest.LogCaptureFixture) -> None:
    bans = Bans()
    bans.put({"user:u/a": Ban("user", "u/a").value(), "what:x": json.dumps({}).encode(), "client:x": b"{"})
    assert [ban.key for ban in bans.all()] == ["user:u/a"]
    assert caplog.text.count("cannot be read") == 2
