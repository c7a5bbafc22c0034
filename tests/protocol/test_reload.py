"""Reload: what holds afterwards, for clients that come and for those that are there."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest

from broker.access.password_file import Passwords, generated
from broker.access.scram import Credential
from broker.config.changes import Reloaded, taken_over
from broker.config.settings import ConfigError, Settings
from broker.packets.codes import ReasonCode
from broker.packets.encoder import encode
from broker.packets.model import Auth, ConnAck, Connect, Disconnect, PubAck, Publish
from broker.packets.properties import Property
from plugins.http import HttpPlugin
from tests.protocol.test_auth import enter, named
from tests.support.broker import ANONYMOUS, Broker, running, settings
from tests.support.certificates import Certificates
from tests.support.scram_client import ScramClient
from tests.support.until import until
from tests.support.wire import Client

PASSWORDS = "plugins.passwords.PasswordsPlugin"
FILE = "amqtt.plugins.authentication.FileAuthPlugin"
SCRAM = "plugins.scram.ScramPlugin"
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""A hash as people get it takes 0.1 s, and seconds on a busy machine."""


def line(kind: str, user: str, password: str) -> str:
    made = Credential.make(password, iterations=4096) if kind == SCRAM else CHEAP.hash(password)
    return f"{user}:{made}\n"


def using(kind: str, file: Path) -> dict[str, Any]:
    return {kind: {"password_file" if kind == FILE else "file": str(file)}}


async def reason(broker: Broker, user: str, password: str) -> int:
    client = await broker.socket()
    return int((await client.connect(f"{user}-again", username=user, password=password.encode())).reason)


@pytest.mark.parametrize("kind", [PASSWORDS, FILE, SCRAM])
async def test_users_come_go_and_change(tmp_path: Path, kind: str, version: int) -> None:
    file = tmp_path / "users"
    stays = line(kind, "stays", "a")
    file.write_text(stays + line(kind, "goes", "b") + line(kind, "changes", "c"))
    async with running(plugins=using(kind, file)) as broker:
        clients = {
            user: await broker.client(user, version, username=user, password=password)
            for user, password in (("stays", b"a"), ("goes", b"b"), ("changes", b"c"))
        }
        file.write_text(stays + line(kind, "changes", "d") + line(kind, "comes", "e"))
        told = await broker.server.reload()
        alias = {PASSWORDS: "passwords", SCRAM: "scram"}.get(kind, kind)
        assert told == Reloaded([f"plugins.{alias}: 3 users", "2 connections of removed or changed users ended"])
        said = [Disconnect(ReasonCode.ADMINISTRATIVE_ACTION)] if version == 5 else []
        assert await clients["goes"].closed() == said
        assert await clients["changes"].closed() == said
        await clients["stays"].ping()
        refused = 4
        for user, password, expected in (
            ("stays", "a", 0),
            ("goes", "b", refused),
            ("changes", "c", refused),
            ("changes", "d", 0),
            ("comes", "e", 0),
        ):
            assert await reason(broker, user, password) == expected, (user, password)


@pytest.mark.parametrize("kind", [PASSWORDS, FILE, SCRAM])
async def test_a_broken_file_leaves_everything_as_it_was(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "users"
    file.write_text(line(kind, "alice", "a"))
    async with running(plugins=using(kind, file), errors=True) as broker:
        client = await broker.client("c", username="alice", password=b"a")
        file.write_text("# people\nalice:sesame\n")
        told = await broker.server.reload()
        (problem,) = told.failed
        assert f"{file}, line 2: " in problem
        assert "not reloaded, it stays as it was: " in caplog.text
        assert "sesame" not in caplog.text
        await client.ping()
        assert await reason(broker, "alice", "a") == 0
        assert told.done == []


async def test_a_login_that_is_under_way_counts_by_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "users"
    file.write_text(line(PASSWORDS, "alice", "a"))
    asked, reloaded = threading.Event(), threading.Event()
    verify = Passwords.verify

    def slow(passwords: Passwords, name: str, password: str) -> bool:
        answer = verify(passwords, name, password)  # by the old file
        asked.set()
        assert reloaded.wait(30)
        return answer

    async with running(plugins=using(PASSWORDS, file)) as broker:
        client = await broker.socket()
        with monkeypatch.context() as patched:
            patched.setattr(Passwords, "verify", slow)
            login = asyncio.create_task(client.connect("c", username="alice", password=b"a"))
            await until(asked.is_set)
        password, kept = generated()
        file.write_text(f"bob:{kept}\n")
        try:
            await broker.server.reload()
        finally:
            reloaded.set()
        assert (await login).reason == 4
        assert await reason(broker, "bob", password) == 0


async def test_an_exchange_that_is_under_way_ends(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(line(SCRAM, "alice", "a"))
    async with running(plugins=using(SCRAM, file)) as broker:
        client, who = await broker.socket(5), ScramClient("alice", "a")
        client.send(Connect("phone", 5, properties=named(who.first())))
        challenge = await client.expect(Auth)
        file.write_text("")
        await broker.server.reload()
        client.send(Auth(0x18, named(who.final(challenge.properties[Property.AUTHENTICATION_DATA]))))
        assert (await client.expect(ConnAck)).reason == ReasonCode.SERVER_BUSY


async def test_enhanced_authentication_goes_by_the_new_file(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(line(SCRAM, "alice", "a"))
    async with running(plugins=using(SCRAM, file)) as broker:
        _, ack = await enter(broker, ScramClient("alice", "a"))
        assert ack.reason == 0
        file.write_text(line(SCRAM, "alice", "b"))
        await broker.server.reload()
        for password, expected in (("a", ReasonCode.BAD_USER_NAME_OR_PASSWORD), ("b", 0)):
            _, ack = await enter(broker, ScramClient("alice", password))
            assert ack.reason == expected


# --- rules, and what a running broker can't take over ----------------------------------------------------------------------


async def publishes(client: Client, topic: str) -> int:
    client.send(Publish(topic, b"x", 1, packet_id=1))
    return int((await client.expect(PubAck)).reason)


async def test_rules_change_come_and_go() -> None:
    def wanted(acl: dict[str, list[str]] | None) -> Settings:
        return settings(plugins={} if acl is None else {ACL: {"publish_acl": acl}})

    async with running() as broker:
        client = await broker.client("c", 5)
        now: list[Settings] = []
        broker.server.reload.read = lambda: now[-1]
        for acl, a, b in (
            ({"anonymous": ["a"]}, 0x10, 0x87),
            ({"anonymous": ["b"]}, 0x87, 0x10),
            ({"nobody": ["a", "b"]}, 0x87, 0x87),
            (None, 0x10, 0x10),
        ):
            now.append(wanted(acl))
            told = await broker.server.reload()
            assert told.done == [f"plugins.{ACL}" + ("" if acl else " (removed)")]
            assert [await publishes(client, topic) for topic in "ab"] == [a, b]


async def test_anonymous_clients_may_be_shut_out_and_passwords_begin(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(line(PASSWORDS, "alice", "a"))
    async with running() as broker:
        assert (await (await broker.socket()).connect("guest")).reason == 0
        wanted = settings(plugins={next(iter(ANONYMOUS)): False, **using(PASSWORDS, file)})
        broker.server.reload.read = lambda: wanted
        await broker.server.reload()
        assert (await (await broker.socket()).connect("guest")).reason == 5
        assert await reason(broker, "alice", "a") == 0


async def test_what_needs_a_restart_is_named_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with running() as broker:
        wanted = settings("memory://", plugins={"sync": {"start": "earliest"}}, mqtt={"inflight_window": 7})
        broker.server.reload.read = lambda: wanted
        for _ in range(2):
            told = await broker.server.reload()
            assert told.restart == ["mqtt.inflight_window", "plugins.sync"]
            assert "changed, but needs a restart: mqtt.inflight_window, plugins.sync" in caplog.text
        assert broker.server.settings.mqtt.inflight_window == 100


def test_what_can_be_taken_over() -> None:
    def made(**changes: Any) -> Settings:
        first = {"name": "a", "bind": "127.0.0.1:1", "tls": {"certfile": "x"}}
        return Settings.model_validate({"listeners": [first], "plugins": {"persistence": {}, "sync": {}}, **changes})

    def restart(**changes: Any) -> list[str]:
        return taken_over(made(), made(**changes), lambda path: path == "a.Rule")[1]

    listener = {"name": "a", "bind": "127.0.0.1:1", "tls": {"certfile": "y", "keyfile": "z"}}
    assert restart() == restart(listeners=[listener]) == restart(log={"level": "debug"}) == []
    assert restart(listeners=[{**listener, "bind": "127.0.0.1:2"}]) == ["listener a: bind"]
    assert restart(listeners=[{**listener, "tls": {"certfile": "x", "cafile": "c"}}]) == ["listener a: tls"]
    assert restart(listeners=[{**listener, "name": "b"}]) == ["listener b (new)", "listener a (removed)"]
    plugins = {"plugins.sync.InboxPlugin": {}, "persistence": {"url": "memory://"}, "a.Rule": {}, "sys": {}}
    assert restart(plugins=plugins) == ["plugins.persistence", "plugins.sys (new)"]
    assert taken_over(made(plugins={"sys": {}, "a.Rule": {}}), made(plugins={}), lambda path: path == "a.Rule")[1] == [
        "plugins.sys (removed)"
    ]
    taken, _ = taken_over(made(), made(plugins=plugins), lambda path: path == "a.Rule")
    assert list(taken.plugins) == ["sync", "persistence", "a.Rule"]
    assert taken.plugins["persistence"] == {}


async def test_a_broken_configuration_leaves_the_settings_and_reloads_the_files(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(line(PASSWORDS, "alice", "a"))

    def broken() -> Settings:
        raise ConfigError(["config.yaml: log.level (line 1): 'loud' must be one of them"])

    async with running(plugins=using(PASSWORDS, file), errors=True) as broker:
        broker.server.reload.read = broken
        file.write_text(line(PASSWORDS, "bob", "b"))
        told = await broker.server.reload()
        assert told.failed == ["config.yaml: log.level (line 1): 'loud' must be one of them"]
        assert await reason(broker, "bob", "b") == 0


# --- certificates ------------------------------------------------------------------------------------------------------


def put(certificates: Certificates, folder: Path) -> dict[str, str]:
    """Copies of the server's files; the same paths each time."""
    (folder / "cert.pem").write_bytes(certificates.server.read_bytes())
    (folder / "key.pem").write_bytes(certificates.server_key.read_bytes())
    (folder / "ca.pem").write_bytes(certificates.ca.read_bytes())
    return {"certfile": str(folder / "cert.pem"), "keyfile": str(folder / "key.pem")}


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> list[Certificates]:
    return [Certificates(tmp_path_factory.mktemp(f"generation{number}")) for number in range(2)]


async def shakes_hands(address: tuple[str, int], trusted: Path, device: Certificates | None = None) -> bool:
    context = ssl.create_default_context(cafile=str(trusted))
    if device is not None:
        context.load_cert_chain(device.device, device.device_key)
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
        writer.write(encode(Connect("c", 4), 4))  # with TLS 1.3 a refused certificate shows only behind the handshake
        answer = await reader.read(4)
    except (ssl.SSLError, ConnectionError):
        return False
    writer.close()
    return len(answer) == 4


def with_tls(tls: dict[str, Any]) -> dict[str, Any]:
    return {"listeners": [{"name": "tcp", "bind": "127.0.0.1:0", "tls": tls}]}


async def test_a_certificate_is_renewed(generations: list[Certificates], tmp_path: Path) -> None:
    old, new = generations
    async with running(errors=True, **with_tls(put(old, tmp_path))) as broker:
        assert await shakes_hands(broker.address, old.ca)
        put(new, tmp_path)
        told = await broker.server.reload()
        assert told.done == ["listener tcp: certificate"]
        assert await shakes_hands(broker.address, new.ca)
        assert not await shakes_hands(broker.address, old.ca)
        (tmp_path / "key.pem").write_bytes(old.server_key.read_bytes())
        (problem,) = (await broker.server.reload()).failed
        assert "the key does not belong to the certificate" in problem
        assert await shakes_hands(broker.address, new.ca)


async def test_so_are_the_authorities_of_clients(generations: list[Certificates], tmp_path: Path) -> None:
    old, new = generations
    tls = {**put(old, tmp_path), "cafile": str(tmp_path / "ca.pem"), "require_client_certificate": True}
    async with running(**with_tls(tls)) as broker:
        assert await shakes_hands(broker.address, old.ca, old)
        assert not await shakes_hands(broker.address, old.ca, new)
        put(new, tmp_path)
        await broker.server.reload()
        assert await shakes_hands(broker.address, new.ca, new)
        assert not await shakes_hands(broker.address, new.ca, old)
        assert not await shakes_hands(broker.address, new.ca)


async def test_so_is_that_of_the_http_api(generations: list[Certificates], tmp_path: Path) -> None:
    old, new = generations
    plugins = {"plugins.http.HttpPlugin": {"bind": "127.0.0.1:0", "operator_file": "", **put(old, tmp_path)}}
    async with running(plugins=plugins, errors=True) as broker:
        plugin = broker.server.api.plugin(HttpPlugin)
        assert plugin is not None

        async def health(trusted: Path) -> int:
            context = ssl.create_default_context(cafile=str(trusted))
            async with httpx.AsyncClient(verify=context) as client:
                return (await client.get(f"https://localhost:{plugin.address[1]}/v1/health")).status_code

        assert await health(old.ca) == 200
        put(new, tmp_path)
        assert (await broker.server.reload()).done == ["plugins.http: certificate"]
        assert await health(new.ca) == 200
        with pytest.raises(httpx.ConnectError):
            await health(old.ca)
        (tmp_path / "cert.pem").write_text("none")
        (problem,) = (await broker.server.reload()).failed
        assert "not a PEM certificate" in problem
        assert await health(new.ca) == 200
