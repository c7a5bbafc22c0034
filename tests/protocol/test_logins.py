"""Logging in while passwords take their time: who waits for whom, and what is not checked at all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest

from bench.process import tree
from broker.access import apart
from broker.access.password_file import hashed
from broker.access.scram import Credential
from broker.packets.codes import ReasonCode
from broker.packets.model import ConnAck, Connect, Disconnect, PingReq, PingResp, PubAck, Publish
from plugins.http import HttpPlugin
from tests.support.broker import Broker, running
from tests.support.slow_logins import Gated
from tests.support.until import until
from tests.support.wire import Client

GATED = "tests.support.slow_logins.Gated"
NOBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}


@pytest.fixture
async def gated() -> AsyncIterator[tuple[Broker, Gated]]:
    async with running(plugins={GATED: {}}, hooks={"timeout": 20.0}) as broker:
        plugin = next(p for p in broker.server.plugin_host.plugins.auth_plugins if isinstance(p, Gated))
        try:
            yield broker, plugin
        finally:
            plugin.let(1000)


async def knock(broker: Broker, user: str, password: str = "", version: int = 4) -> Client:
    """A client that has sent its CONNECT."""
    client = await broker.socket(version)
    client.send(Connect(f"{user}-{password}", version, username=user, password=(password or user).encode()))
    await client.drained()
    return client


async def occupied(broker: Broker, plugin: Gated) -> list[Client]:
    """Both threads are busy."""
    clients = [await knock(broker, "a"), await knock(broker, "b")]
    await until(lambda: len(plugin.seen) == 2)
    return clients


async def test_an_abandoned_login_is_not_checked(gated: tuple[Broker, Gated], version: int) -> None:
    broker, plugin = gated
    first = await occupied(broker, plugin)
    for number in range(20):
        await (await knock(broker, f"gone{number}", version=version)).drop()
    await until(lambda: len(broker.server.connections) == 2)
    last = await knock(broker, "last")
    plugin.let(3)
    for client in (*first, last):
        assert (await client.expect(ConnAck)).reason == 0
    assert [user for user, _ in plugin.seen] == ["a", "b", "last"]


async def test_what_a_client_sent_behind_its_connect_before_it_went_is_done(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    watcher = await knock(broker, "watcher")
    plugin.let()
    await watcher.expect(ConnAck)
    await watcher.subscribe("#")
    hasty = await broker.socket()
    hasty.send(Connect("h", 4, username="h", password=b"h"), Publish("t", b"x"), Disconnect())
    await hasty.drained()
    await hasty.drop()
    plugin.let()
    assert (await watcher.expect(Publish)).payload == b"x"


async def test_what_comes_behind_a_connect_waits(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    client = await knock(broker, "a")
    await until(lambda: len(plugin.seen) == 1)
    client.send(PingReq(), Publish("t", b"x", 1, packet_id=1))
    await client.drained()
    plugin.let()
    assert [type(await client.receive()) for _ in range(3)] == [ConnAck, PingResp, PubAck]


async def test_nothing_behind_a_refused_connect_is_processed(gated: tuple[Broker, Gated], version: int) -> None:
    """[MQTT-3.1.4-6]"""
    broker, plugin = gated
    watcher, stranger = await knock(broker, "watcher"), await broker.socket(version)
    plugin.let(2)
    await watcher.expect(ConnAck)
    await watcher.subscribe("#")
    stranger.send(Connect("x", version, username="x", password=b"wrong"), Publish("t", b"not seen"), Disconnect())
    assert [type(packet) for packet in await stranger.closed()] == [ConnAck]
    await watcher.publish("t", b"seen", 0)
    assert (await watcher.message()).payload == b"seen"


@pytest.mark.parametrize(("version", "code"), [(4, 3), (5, ReasonCode.SERVER_BUSY)])
async def test_connect_timeout_holds_while_passwords_are_checked(version: int, code: int) -> None:
    async with running(plugins={GATED: {}}, mqtt={"connect_timeout": 0.3}, hooks={"timeout": 20.0}) as broker:
        plugin = next(p for p in broker.server.plugin_host.plugins.auth_plugins if isinstance(p, Gated))
        clients = [await knock(broker, user, version=version) for user in "abc"]
        for client in clients:
            assert [packet.reason for packet in await client.closed()] == [code]  # type: ignore[union-attr]
        assert len(plugin.seen) == 2
        plugin.let(2)


async def test_the_http_api_says_that_it_is_busy() -> None:
    http = {"plugins.http.HttpPlugin": {"bind": "127.0.0.1:0", "operator_file": ""}}
    async with running(plugins={GATED: {}, **http}, mqtt={"connect_timeout": 0.5}, hooks={"timeout": 20.0}) as broker:
        plugin = next(p for p in broker.server.plugin_host.plugins.auth_plugins if isinstance(p, Gated))
        api = broker.server.api.plugin(HttpPlugin)
        assert api is not None
        await occupied(broker, plugin)
        host, port = api.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", auth=("c", "c")) as client:
            answer = await client.get("/v1/me")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:tideline:too-many-logins")
        plugin.let(10)


async def test_one_credential_is_checked_once_however_many_come_with_it(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    clients = [await broker.socket() for _ in range(50)]
    for number, client in enumerate(clients):
        client.send(Connect(f"device{number}", 4, username="fleet", password=b"fleet"))
        await client.drained()
    plugin.let()
    for client in clients:
        assert (await client.expect(ConnAck)).reason == 0
    assert len(plugin.seen) == 1
    again = await knock(broker, "fleet")
    assert (await again.expect(ConnAck)).reason == 0
    assert len(plugin.seen) == 1


async def test_a_right_password_says_nothing_of_another(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    plugin.let(4)
    for user, password, right in (("a", "a", True), ("a", "b", False), ("b", "a", False), ("b", "b", True)):
        ack = await (await knock(broker, user, password)).expect(ConnAck)
        assert (ack.reason == 0) is right
    assert len(plugin.seen) == 4


async def test_a_wrong_password_that_comes_again_is_not_checked_again(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    plugin.let(10)
    for _ in range(3):
        assert (await (await knock(broker, "a", "wrong")).expect(ConnAck)).reason == 4
    assert (await (await knock(broker, "a")).expect(ConnAck)).reason == 0
    assert len(plugin.seen) == 2


async def test_who_guesses_leaves_a_thread_to_others(gated: tuple[Broker, Gated]) -> None:
    """All from one address: after a wrong password it has one thread, and of its user names each has its turn."""
    broker, plugin = gated
    plugin.let()
    await (await knock(broker, "mallory", "guess")).expect(ConnAck)
    guesses = [await knock(broker, "mallory", f"guess{number}") for number in range(6)]
    await until(lambda: len(plugin.seen) == 2)
    alice = await knock(broker, "alice")
    await until(lambda: broker.server.counters.messages_received == 8)
    assert len(plugin.seen) == 2  # one thread stays free
    plugin.let(2)
    assert (await alice.expect(ConnAck)).reason == 0
    assert [user for user, _ in plugin.seen[:3]] == ["mallory", "mallory", "alice"]
    if sys.platform == "linux":
        assert plugin.priorities[1] == min(19, plugin.priorities[0] + 5)
    plugin.let(10)
    for guess in guesses:
        assert (await guess.expect(ConnAck)).reason == 4


async def test_who_waits_when_another_guess_proves_wrong_leaves_that_thread_too(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    guesses = [await knock(broker, f"mallory{number}", "guess") for number in range(6)]
    await until(lambda: broker.server.counters.messages_received == 6)
    plugin.let(10)
    for guess in guesses:
        assert (await guess.expect(ConnAck)).reason == 4
    assert [name.startswith("auth suspects") for name in plugin.threads] == [False] * 2 + [True] * 4


async def test_guesses_at_one_user_name_push_each_other_out(gated: tuple[Broker, Gated]) -> None:
    broker, plugin = gated
    first = await occupied(broker, plugin)
    guesses = [await knock(broker, "alice", f"guess{number}") for number in range(30)]
    await until(lambda: broker.server.counters.clients_refused == 22)
    right = await knock(broker, "alice")
    await until(lambda: broker.server.counters.clients_refused == 23)
    plugin.let(20)
    assert (await right.expect(ConnAck)).reason == 0
    refused = sorted([(await guess.expect(ConnAck)).reason for guess in guesses])
    assert refused == [3] * 23 + [4] * 7
    assert len(first) == 2


# --- the password file, as tideline passwd writes it -------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logins") / "passwords"
    path.write_text(f"alice:{hashed('wonderland')}\n")
    return path


def plugins(kind: str, file: Path) -> dict[str, Any]:
    if kind == "ours":
        return {"plugins.passwords.PasswordsPlugin": {"file": str(file)}}
    return {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(file)}, **NOBODY}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords are checked against from now on."""
    checked: list[str] = []
    verify = argon2.PasswordHasher.verify

    def verified(hasher: argon2.PasswordHasher, stored: str, password: str | bytes) -> bool:
        checked.append(stored)
        return verify(hasher, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verified)
    return checked


@pytest.mark.parametrize("kind", ["ours", "amqtt's"])
async def test_a_fleet_with_one_credential_costs_one_hash(file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = counted(monkeypatch)
    async with running(plugins=plugins(kind, file)) as broker:
        clients = [await broker.socket() for _ in range(200)]
        for _ in range(2):  # and again, when all of them come back
            acks = await asyncio.gather(
                *(c.connect(f"d{n}", username="alice", password=b"wonderland") for n, c in enumerate(clients))
            )
            assert {ack.reason for ack in acks} == {0}
            clients = [await broker.socket() for _ in range(200)]
        wrong = await broker.socket()
        assert (await wrong.connect("w", username="alice", password=b"looking-glass")).reason == 4
        assert len(checked) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc, and knows Linux's scheduler")
async def test_a_flood_of_wrong_passwords_is_checked_by_a_process_that_is_in_nobodys_way(tmp_path: Path) -> None:
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    (tmp_path / "passwords").write_text(f"alice:{hasher.hash('wonderland')}\n")
    quick = {"plugins.passwords.PasswordsPlugin": {"file": str(tmp_path / "passwords")}}
    before = set(tree(os.getpid()))
    numbers = iter(range(1000))
    patient, limits = {"timeout": 60.0}, {"failed_logins": 0}
    async with running(plugins=quick, limits=limits, hooks=patient, mqtt={"connect_timeout": 60.0}) as broker:

        async def refused() -> set[int]:
            client = await broker.socket()
            wrong = f"guess{next(numbers)}".encode()
            assert (await client.connect("c", username="alice", password=wrong)).reason == 4
            return set(tree(os.getpid())) - before

        assert await refused() == await refused() == set()
        (child,) = await until(refused)
        await until(lambda: os.sched_getscheduler(child) == os.SCHED_IDLE)
        right = await broker.socket()
        assert (await right.connect("c", username="alice", password=b"wonderland")).reason == 0
        await refused()
        os.kill(child, signal.SIGKILL)  # what it would have checked is checked here, and by another one
        await refused()
    await until(lambda: set(tree(os.getpid())) <= before)


def test_a_flood_whose_hashes_take_long_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take long because others go first: that forgets none of them."""
    now, asked = [0.0], list[str]()

    def long(kept: str, secret: bytes) -> bool:
        now[0] += 5.0
        return False

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(apart, "_verify", long)
    checks = apart.Apart()
    monkeypatch.setattr(checks, "_ask", lambda kept, secret: asked.append(kept))
    for _ in range(6):
        assert not checks.verify("hash", b"guess")
    assert len(asked) == 2
    now[0] += 60.0
    assert not checks.verify("hash", b"mistyped")
    assert len(asked) == 2


async def test_an_unknown_user_costs_what_a_known_one_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = counted(monkeypatch)
    async with running(plugins=plugins("ours", file)) as broker:
        client = await broker.socket()
        assert (await client.connect("c", username="nobody", password=b"wonderland")).reason == 4
        assert len(checked) == 1


@pytest.mark.parametrize(("mixed", "reason"), [(False, 5), (True, 0)])
async def test_beside_a_password_file_nobody_is_anonymous_unless_it_says_so(file: Path, mixed: bool, reason: int) -> None:
    """amqtt's anonymous plugin is loaded beside it, and lets in whom it is shown."""
    options = {"file": str(file), "anonymous": mixed}
    async with running(plugins={"plugins.passwords.PasswordsPlugin": options}) as broker:
        assert (await (await broker.socket()).connect("guest")).reason == reason
        named = await (await broker.socket()).connect("x", username="mallory", password=b"x")
        assert named.reason == 4
        right = await (await broker.socket()).connect("y", username="alice", password=b"wonderland")
        assert right.reason == 0


async def test_nor_beside_a_scram_file(tmp_path: Path) -> None:
    (tmp_path / "scram").write_text(f"alice:{Credential.make('wonderland', iterations=4096)}\n")
    for passwords in (True, False):
        options = {"file": str(tmp_path / "scram"), "passwords": passwords}
        async with running(plugins={"plugins.scram.ScramPlugin": options}) as broker:
            assert (await (await broker.socket()).connect("guest")).reason == 5
            assert (await (await broker.socket()).connect("x", username="mallory", password=b"x")).reason == 4
