"""Who may come in: connections in all, by address and by user; CONNECTs and failed logins by address."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.access.password_file import generated
from broker.access.scram import Credential
from broker.limits import block_of
from broker.packets.codes import ReasonCode as R
from broker.packets.model import Auth, ConnAck, Connect
from plugins.http import HttpPlugin
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

USERS = {name: generated() for name in ("alice", "bob")}


@pytest.fixture
def passwords(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "passwords"
    path.write_text("".join(f"{name}:{kept}\n" for name, (_, kept) in USERS.items()))
    return {"plugins.passwords.PasswordsPlugin": {"file": str(path), "anonymous": True}}


async def answer(broker: Broker, client_id: str, version: int = 5, **more: Any) -> tuple[int, Client]:
    """The code of the CONNACK, and the client."""
    client = await broker.socket(version)
    client.send(Connect(client_id, version, **more))
    return (await client.expect(ConnAck)).reason, client


def login(user: str, password: str = "") -> dict[str, Any]:
    return {"username": user, "password": (password or USERS[user][0]).encode()}


async def test_in_all_more_are_closed_at_once() -> None:
    async with running(limits={"max_connections": 2}) as broker:
        first, _ = await broker.client("a"), await broker.client("b")
        over = await broker.socket()
        over.send(Connect("c", 4))
        assert await over.closed() == []
        assert broker.server.counters.limit_connections == broker.server.counters.connections_refused == 1
        await first.leave()
        await until(lambda: len(broker.server.connections) == 1)
        await broker.client("c")


@pytest.mark.parametrize(("version", "code"), [(4, 3), (5, R.QUOTA_EXCEEDED)])
async def test_of_one_address(version: int, code: int) -> None:
    async with running(limits={"connections_per_address": 2}) as broker:
        counters = broker.server.counters
        first, _ = await broker.client("a"), await broker.client("b")
        half_open = [await broker.socket(version) for _ in range(2)]
        await until(lambda: counters.limit_connections_per_address == 2)
        wordless = await broker.socket(version)  # twice as many as may be: no room even to be told so
        assert await wordless.closed() == []
        half_open[0].send(Connect("c", version))
        assert [packet.reason for packet in await half_open[0].closed()] == [code]  # type: ignore[union-attr]
        assert counters.limit_connections_per_address == 3
        await half_open[1].drop()
        await first.leave()
        await until(lambda: len(broker.server.connections) == 1)
        await broker.client("c", version)


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix", ""),
        ("/run/mqtt.sock", ""),
    ],
)
def test_as_whom_an_address_counts(address: str, counted_as: str) -> None:
    assert block_of(address) == counted_as


async def test_of_one_user(passwords: dict[str, Any]) -> None:
    async with running(plugins=passwords, limits={"connections_per_user": 2}) as broker:
        assert [(await answer(broker, name, **login("alice")))[0] for name in ("a", "b")] == [0, 0]
        assert (await answer(broker, "c", **login("alice")))[0] == R.QUOTA_EXCEEDED
        assert (await answer(broker, "c", 4, **login("alice")))[0] == 3
        assert broker.server.counters.limit_connections_per_user == 2
        assert (await answer(broker, "c", **login("bob")))[0] == 0
        assert (await answer(broker, "c"))[0] == 0  # anonymous: a user of its own
        taken_over, phone = await answer(broker, "a", **login("alice"))
        assert taken_over == 0
        await phone.leave()
        await until(lambda: len(broker.server.connections) == 3)
        assert (await answer(broker, "c", **login("alice")))[0] == 0
        assert (await answer(broker, "d", **login("alice")))[0] == R.QUOTA_EXCEEDED


async def test_connects_of_one_address_wait_and_are_then_refused() -> None:
    limits = {"connect_rate": 0.5, "connect_burst": 2}
    async with running(limits=limits) as broker:
        began = time.monotonic()
        clients = [await broker.socket(5) for _ in range(40)]
        for number, client in enumerate(clients):
            client.send(Connect(f"c{number}", 5))
        codes = [(await client.expect(ConnAck)).reason for client in clients]
        took = time.monotonic() - began
        refused = codes.count(R.CONNECTION_RATE_EXCEEDED)
        assert codes.count(0) + refused == 40
        assert codes.count(0) <= 2 + (took + 2) / 2
        assert refused == broker.server.counters.limit_connect_rate > 0
        assert took > 1.9  # who is refused has waited: it would come back at once
        while (await answer(broker, "again"))[0]:
            pass


async def test_after_many_wrong_passwords_only_who_was_right_before_is_let_in(
    passwords: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    http = {"plugins.http.HttpPlugin": {"bind": "127.0.0.1:0", "operator_file": ""}}
    limits = {"failed_logins": 3, "failed_logins_pause": 3600}
    async with running(plugins={**passwords, **http}, limits=limits) as broker:
        assert (await answer(broker, "a", **login("alice")))[0] == 0
        guesses = 0
        while (await answer(broker, "x", **login("alice", f"guess{guesses}")))[0] == R.BAD_USER_NAME_OR_PASSWORD:
            guesses += 1
        assert guesses >= 3
        before = broker.server.counters.limit_failed_logins
        assert "127.0.0.1: failed_logins 3 within a minute: no login from there for 3600 s" in caplog.text
        for stranger in (login("bob"), login("alice", "guess"), {}):
            assert (await answer(broker, "b", **stranger))[0] == R.CONNECTION_RATE_EXCEEDED
        assert (await answer(broker, "b", 4, **login("bob")))[0] == 3
        assert broker.server.counters.limit_failed_logins == before + 4
        assert (await answer(broker, "a2", **login("alice")))[0] == 0
        api = broker.server.api.plugin(HttpPlugin)
        assert api is not None
        async with httpx.AsyncClient(base_url="http://{}:{}".format(*api.address), auth=("bob", USERS["bob"][0])) as caller:
            barred = await caller.get("/v1/me")
        assert (barred.status_code, barred.json()["type"]) == (429, "urn:tideline:too-many")
        assert 3500 < int(barred.headers["retry-after"]) <= 3600


async def test_callers_and_scram_count_too(passwords: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scram").write_text(f"carol:{Credential.make('wonderland', iterations=4096)}\n")
    plugins = {
        "plugins.http.HttpPlugin": {"bind": "127.0.0.1:0", "operator_file": ""},
        "plugins.scram.ScramPlugin": {"file": str(tmp_path / "scram"), "anonymous": True},
    }
    async with running(plugins=plugins, limits={"failed_logins": 2, "failed_logins_pause": 3600}) as broker:
        wrong = {0x15: "SCRAM-SHA-256", 0x16: b"n,,n=mallory,r=abcdefgh"}
        client = await broker.socket(5)
        client.send(Connect("s", 5, properties=wrong))
        challenge = await client.expect(Auth)
        nonce = challenge.properties[0x16].partition(b",")[0]
        proof = {0x15: "SCRAM-SHA-256", 0x16: b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="}
        client.send(Auth(0x18, proof))
        code = (await client.expect(ConnAck)).reason
        assert code in (R.NOT_AUTHORIZED, R.BAD_USER_NAME_OR_PASSWORD)
        api = broker.server.api.plugin(HttpPlugin)
        assert api is not None
        async with httpx.AsyncClient(base_url="http://{}:{}".format(*api.address)) as caller:
            bearer = {"Authorization": "Bearer tl_nonsense"}
            codes = [(await caller.get("/v1/me", headers=bearer)).status_code for _ in range(3)]
            assert (codes[0], codes[-1]) == (401, 429)
        assert (await answer(broker, "b"))[0] == R.CONNECTION_RATE_EXCEEDED


async def test_who_shows_the_operators_secret_is_let_in_however_many_failed_from_there(tmp_path: Path) -> None:
    """Behind a proxy on the same machine everybody is at one address, and somebody guesses."""
    http = {"plugins.http.HttpPlugin": {"bind": "127.0.0.1:0", "operator_file": str(tmp_path / "operator.json")}}
    async with running(plugins=http, limits={"failed_logins": 2, "failed_logins_pause": 3600}) as broker:
        api = broker.server.api.plugin(HttpPlugin)
        assert api is not None
        right = [
            (tmp_path / "operator.secret").read_text().strip(),
            json.loads((tmp_path / "operator.json").read_text())["secret"],
        ]
        async with httpx.AsyncClient(base_url="http://{}:{}".format(*api.address)) as caller:

            async def status(secret: str) -> int:
                return (await caller.get("/v1/bans", headers={"Authorization": f"Bearer {secret}"})).status_code

            assert [await status(f"wrong{number}") for number in range(3)] == [401, 401, 429]
            assert [await status(secret) for secret in right] == [200, 200]
            assert await status(right[0][:-1]) == 429
