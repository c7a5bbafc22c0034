"""Enhanced authentication (4.12): AUTH before CONNACK and again later, as its plugin answers; SCRAM-SHA-256 end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.access.scram import Credential
from broker.errors import StartError
from broker.packets.codes import ReasonCode
from broker.packets.encoder import encode
from broker.packets.model import Auth, ConnAck, Connect, Disconnect, PingReq, PingResp, PubAck, Publish, Subscribe, Will
from broker.packets.properties import Properties, Property
from broker.server import Server
from tests.support.auth_plugins import Obedient
from tests.support.broker import Broker, running, settings
from tests.support.scram_client import ScramClient
from tests.support.until import until
from tests.support.wire import Client

OBEDIENT = "tests.support.auth_plugins.Obedient"
CONTINUE, AGAIN = ReasonCode.CONTINUE_AUTHENTICATION, ReasonCode.RE_AUTHENTICATE


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with running(plugins={OBEDIENT: {}}, errors=True) as started:
        yield started


def method(data: bytes = b"", name: str = "OBEY") -> Properties:
    found: Properties = {Property.AUTHENTICATION_METHOD: name}
    return {**found, Property.AUTHENTICATION_DATA: data} if data else found


def hello(data: bytes = b"", name: str = "OBEY", client_id: str = "c", **more: Any) -> Connect:
    return Connect(client_id, 5, properties=method(data, name), **more)


async def accepted(broker: Broker, user: str = "alice", client_id: str = "c", **more: Any) -> Client:
    client = await broker.socket(5)
    client.send(hello(f"silently {user}".encode(), client_id=client_id, **more))
    assert (await client.expect(ConnAck)).reason == 0
    return client


# --- at CONNECT --------------------------------------------------------------------------------------------------------


async def test_an_exchange_of_several_steps(broker: Broker) -> None:
    """[MQTT-4.12.0-2, -3, -5]"""
    client = await broker.socket(5)
    client.send(hello(b"ask one"))
    assert await client.expect(Auth) == Auth(CONTINUE, method(b"one"))
    client.send(Auth(CONTINUE, method(b"ask two")))
    assert await client.expect(Auth) == Auth(CONTINUE, method(b"two"))
    client.send(Auth(CONTINUE, method(b"accept alice")))
    ack = await client.expect(ConnAck)
    assert ack.reason == 0
    assert {key: ack.properties[key] for key in method(b"x")} == method(b"welcome")
    await client.ping()
    (session,) = broker.server.sessions.named("c")
    assert session.key.user == "u/alice"


async def test_connack_names_the_method_also_without_data(broker: Broker) -> None:
    """[MQTT-4.12.0-5]"""
    client = await broker.socket(5)
    client.send(hello(b"silently alice"))
    told = (await client.expect(ConnAck)).properties
    assert told[Property.AUTHENTICATION_METHOD] == "OBEY"
    assert Property.AUTHENTICATION_DATA not in told


async def test_without_a_method_nothing_is_said_of_one(broker: Broker) -> None:
    """[MQTT-4.12.0-6]"""
    client = await broker.socket(5)
    assert Property.AUTHENTICATION_METHOD not in (await client.connect("c")).properties
    client.send(Auth(AGAIN, method(b"accept alice")))
    assert await client.closed() == [Disconnect(ReasonCode.PROTOCOL_ERROR)]


async def test_a_method_that_nobody_offers(broker: Broker) -> None:
    """[MQTT-4.12.0-1]"""
    client = await broker.socket(5)
    client.send(hello(name="OTHER"))
    assert await client.closed() == [ConnAck(False, ReasonCode.BAD_AUTHENTICATION_METHOD)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no", ReasonCode.NOT_AUTHORIZED),
        (b"busy", ReasonCode.SERVER_BUSY),
        (b"password", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        (b"crash", ReasonCode.UNSPECIFIED_ERROR),
        (b"cancelled", ReasonCode.UNSPECIFIED_ERROR),
        (b"accept ", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
    ],
)
async def test_who_is_refused_hears_why(broker: Broker, caplog: pytest.LogCaptureFixture, data: bytes, code: int) -> None:
    """[MQTT-4.12.0-4]"""
    first, later = await broker.socket(5), await broker.socket(5)
    first.send(hello(data))
    assert await first.closed() == [ConnAck(False, code)]
    later.send(hello(b"ask x"), Auth(CONTINUE, method(data)))
    assert await later.closed() == [Auth(CONTINUE, method(b"x")), ConnAck(False, code)]
    assert not broker.server.sessions.named("c")
    assert "sesame" not in caplog.text


async def test_reasons_in_words_for_who_asks(broker: Broker) -> None:
    client = await broker.socket(5)
    client.send(Connect("c", 5, properties={**method(b"busy"), Property.REQUEST_PROBLEM_INFORMATION: 1}))
    assert (await client.expect(ConnAck)).properties == {Property.REASON_STRING: "come back later"}


@pytest.mark.parametrize(
    "packet", [PingReq(), Publish("t", b"x"), Subscribe(1, [("t", 0)]), PubAck(1)], ids=lambda p: type(p).__name__
)
async def test_nothing_but_auth_and_disconnect_before_connack(broker: Broker, packet: PingReq | Publish | Subscribe) -> None:
    """[MQTT-3.1.2-30]"""
    watcher = await broker.client("watcher")
    await watcher.subscribe("#")
    client = await broker.socket(5)
    client.send(hello(b"ask x"), packet)
    assert await client.closed() == [Auth(CONTINUE, method(b"x")), ConnAck(False, ReasonCode.PROTOCOL_ERROR)]
    await watcher.quiet()


async def test_packets_behind_the_last_step_wait_for_connack(broker: Broker) -> None:
    client = await broker.socket(5)
    client.send(hello(b"ask x"), Auth(CONTINUE, method(b"silently alice")), PingReq())
    assert [type(await client.receive()) for _ in range(3)] == [Auth, ConnAck, PingResp]


async def test_a_client_may_give_up(broker: Broker) -> None:
    client = await broker.socket(5)
    client.send(hello(b"ask x", will=Will("w", b"will")), Disconnect())
    assert await client.closed() == [Auth(CONTINUE, method(b"x"))]
    assert not broker.server.sessions.named("c")


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Auth(CONTINUE, method(b"accept alice", "HIDDEN")), ReasonCode.PROTOCOL_ERROR),
        (Auth(AGAIN, method(b"accept alice")), ReasonCode.PROTOCOL_ERROR),
        (Auth(0, method(b"accept alice")), ReasonCode.PROTOCOL_ERROR),
        (hello(b"accept alice"), ReasonCode.PROTOCOL_ERROR),
    ],
)
async def test_a_wrong_step(broker: Broker, packet: Auth | Connect, code: int) -> None:
    """4.12, 3.15.2.1: another method, a new exchange within one, a code that is the server's, a second CONNECT."""
    client = await broker.socket(5)
    client.send(hello(b"ask x"))
    await client.expect(Auth)
    client.send(packet)
    assert await client.closed() == [ConnAck(False, code)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xf0\x00", ReasonCode.PROTOCOL_ERROR),  # 3.15.2.1: short for success
        (b"\xf0\x02\x18\x00", ReasonCode.PROTOCOL_ERROR),  # 3.15.2.2.2: no method
        (b"\xf1\x02\x18\x00", ReasonCode.MALFORMED_PACKET),  # [MQTT-3.15.1-1]
        (b"\xf0\x03\x18\x01\x15", ReasonCode.MALFORMED_PACKET),
    ],
)
async def test_malformed_auth(broker: Broker, data: bytes, code: int) -> None:
    before, after = await broker.socket(5), await accepted(broker)
    before.send(hello(b"ask x", client_id="before"))
    await before.expect(Auth)
    before.send_bytes(data)
    assert await before.closed() == [ConnAck(False, code)]
    after.send_bytes(data)
    assert await after.closed() == [Disconnect(code)]


async def test_auth_is_nothing_for_3_1_1(broker: Broker) -> None:
    client = await broker.client("c", 4)
    client.send_bytes(encode(Auth(AGAIN, method(b"accept alice")), 5))
    assert await client.closed() == []


@pytest.mark.parametrize("data", [b"ask x", b"hang"])
async def test_an_exchange_has_a_time_limit(data: bytes) -> None:
    async with running(plugins={OBEDIENT: {}}, mqtt={"connect_timeout": 0.3}, hooks={"timeout": 5.0}) as broker:
        client = await broker.socket(5)
        client.send(hello(data))
        packets = await client.closed()
        assert packets[-1] == ConnAck(False, ReasonCode.NOT_AUTHORIZED)


async def test_a_plugin_that_hangs_lets_nobody_in() -> None:
    async with running(plugins={OBEDIENT: {}}, hooks={"timeout": 0.2}, errors=True) as broker:
        client = await broker.socket(5)
        client.send(hello(b"hang"))
        assert await client.closed() == [ConnAck(False, ReasonCode.UNSPECIFIED_ERROR)]


async def test_takeover_only_after_success(broker: Broker) -> None:
    old, new = await accepted(broker), await broker.socket(5)
    new.send(hello(b"ask x"))
    await new.expect(Auth)
    await old.ping()
    new.send(Auth(CONTINUE, method(b"no")))
    await new.closed()
    await old.ping()
    await accepted(broker)
    assert await old.closed() == [Disconnect(ReasonCode.SESSION_TAKEN_OVER)]


@pytest.mark.parametrize(("name", "code"), [("alice", 0), ("bob", ReasonCode.BAD_USER_NAME_OR_PASSWORD)])
async def test_the_user_name_in_connect_must_be_the_same(broker: Broker, name: str, code: int) -> None:
    client = await broker.socket(5)
    client.send(hello(b"silently alice", username=name, password=b"unused"))
    assert (await client.expect(ConnAck)).reason == code
    plugin = broker.server.plugin_host.auth_methods["OBEY"]
    assert isinstance(plugin, Obedient)
    assert [(start.method, start.client_id, start.username, start.user) for start in plugin.begun] == [
        ("OBEY", "c", name, None)
    ]


async def test_the_other_plugins_are_not_asked(passwords: Path) -> None:
    files = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}}
    async with running(plugins={OBEDIENT: {}, **files}) as broker:
        client = await accepted(broker, "somebody")
        await client.ping()


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    (tmp_path / "passwords").write_text("")
    return tmp_path / "passwords"


# --- on an open connection ---------------------------------------------------------------------------------------------


async def test_authenticating_again(broker: Broker) -> None:
    """4.12.1: other packets go on meanwhile."""
    client = await accepted(broker)
    client.send(Auth(AGAIN, method(b"ask one")))
    assert await client.expect(Auth) == Auth(CONTINUE, method(b"one"))
    assert await client.publish("t", b"meanwhile") == ReasonCode.NO_MATCHING_SUBSCRIBERS
    client.send(Auth(CONTINUE, method(b"accept alice")))
    assert await client.expect(Auth) == Auth(ReasonCode.SUCCESS, method(b"welcome"))
    client.send(Auth(AGAIN, method(b"silently alice")), PingReq())
    assert await client.expect(Auth) == Auth(ReasonCode.SUCCESS, method())
    await client.expect(PingResp)
    plugin = broker.server.plugin_host.auth_methods["OBEY"]
    assert isinstance(plugin, Obedient)
    assert [start.user for start in plugin.begun] == [None, "alice", "alice"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no", ReasonCode.NOT_AUTHORIZED),
        (b"password", ReasonCode.NOT_AUTHORIZED),
        (b"busy", ReasonCode.SERVER_BUSY),
        (b"crash", ReasonCode.UNSPECIFIED_ERROR),
        (b"cancelled", ReasonCode.UNSPECIFIED_ERROR),
        (b"accept bob", ReasonCode.NOT_AUTHORIZED),
    ],
)
async def test_failing_to_authenticate_again_closes(broker: Broker, data: bytes, code: int) -> None:
    """[MQTT-4.12.1-2]; the session stays with its user."""
    client = await accepted(broker)
    client.send(Auth(AGAIN, method(data)))
    assert await client.closed() == [Disconnect(code)]


@pytest.mark.parametrize(
    "packets",
    [
        [Auth(CONTINUE, method(b"accept alice"))],
        [Auth(AGAIN, method(b"ask x")), Auth(AGAIN, method(b"accept alice"))],
        [Auth(AGAIN, method(b"accept alice", "HIDDEN"))],
    ],
    ids=["continue without an exchange", "begin within another", "another method"],
)
async def test_a_wrong_step_on_an_open_connection(broker: Broker, packets: list[Auth]) -> None:
    """[MQTT-4.12.1-1]"""
    client = await accepted(broker)
    client.send(*packets)
    assert (await client.closed())[-1] == Disconnect(ReasonCode.PROTOCOL_ERROR)


async def test_authenticating_again_has_a_time_limit() -> None:
    async with running(plugins={OBEDIENT: {}}, mqtt={"connect_timeout": 0.3}) as broker:
        client = await accepted(broker)
        for _ in range(2):
            client.send(Auth(AGAIN, method(b"silently alice")))
            await client.expect(Auth)
        client.send(Auth(AGAIN, method(b"ask x")))
        await client.expect(Auth)
        assert await client.closed() == [Disconnect(ReasonCode.NOT_AUTHORIZED)]


# --- loading -----------------------------------------------------------------------------------------------------------


async def test_one_plugin_a_method() -> None:
    server = Server(settings(plugins={OBEDIENT: {}, "tests.protocol.test_auth.Twin": {}}))
    with pytest.raises(StartError, match="only one plugin offers the method 'OBEY'"):
        await server.start()


class Twin(Obedient):
    methods = ("OBEY",)


# --- SCRAM-SHA-256 -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def scram(tmp_path: Path) -> AsyncIterator[Broker]:
    (tmp_path / "users").write_text(f"# ours\n\nalice:{Credential.make('wonderland', iterations=4096)}\n")
    anonymous = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    plugins = {anonymous: {"allow_anonymous": False}, "plugins.scram.ScramPlugin": {"file": str(tmp_path / "users")}}
    async with running(plugins=plugins) as started:
        yield started


def named(data: bytes) -> Properties:
    return method(data, "SCRAM-SHA-256")


async def enter(broker: Broker, who: ScramClient, *, early: bool = True, **connect: object) -> tuple[Client, ConnAck]:
    """CONNECT and the exchange; with ``early`` the first message comes with CONNECT."""
    client = await broker.socket(5)
    client.send(Connect("phone", 5, properties=named(who.first() if early else b""), **connect))  # type: ignore[arg-type]
    if not early:
        assert await client.expect(Auth) == Auth(CONTINUE, named(b""))
        client.send(Auth(CONTINUE, named(who.first())))
    challenge = await client.expect(Auth)
    client.send(Auth(CONTINUE, named(who.final(challenge.properties[Property.AUTHENTICATION_DATA]))))
    return client, await client.expect(ConnAck)


@pytest.mark.parametrize("early", [True, False])
async def test_scram(scram: Broker, early: bool) -> None:
    who = ScramClient("alice", "wonderland")
    client, ack = await enter(scram, who, early=early, username="alice")
    who.check(ack.properties[Property.AUTHENTICATION_DATA])
    again = ScramClient("alice", "wonderland")
    client.send(Auth(AGAIN, named(again.first())))
    challenge = await client.expect(Auth)
    client.send(Auth(CONTINUE, named(again.final(challenge.properties[Property.AUTHENTICATION_DATA]))))
    done = await client.expect(Auth)
    assert done.reason == 0
    again.check(done.properties[Property.AUTHENTICATION_DATA])
    await until(lambda: [session.key.user for session in scram.server.sessions.named("phone")] == ["u/alice"])


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", "wonderland")])
async def test_scram_with_a_wrong_password(scram: Broker, name: str, password: str) -> None:
    _, ack = await enter(scram, ScramClient(name, password))
    assert (ack.reason, ack.properties) == (ReasonCode.BAD_USER_NAME_OR_PASSWORD, {})


async def test_the_challenge_of_an_unknown_user_looks_like_any(scram: Broker) -> None:
    """And is the same each time, as a salt is."""
    salts = []
    for _ in range(2):
        client = await scram.socket(5)
        client.send(Connect("c", 5, properties=named(ScramClient("nobody", "").first())))
        _, salt, rounds = (await client.expect(Auth)).properties[Property.AUTHENTICATION_DATA].split(b",")
        assert rounds == b"i=4096"
        salts.append(salt)
    assert salts[0] == salts[1]
    assert len(salts[0]) == len(b"s=") + 24


async def test_scram_refuses_what_is_none(scram: Broker) -> None:
    client = await scram.socket(5)
    client.send(Connect("c", 5, properties={**named(b"hello"), Property.REQUEST_PROBLEM_INFORMATION: 1}))
    ack = await client.expect(ConnAck)
    assert ack.reason == ReasonCode.NOT_AUTHORIZED
    assert ack.properties[Property.REASON_STRING] == "SCRAM: The client sent a malformed first message"


@pytest.mark.parametrize(("password", "accepted"), [(b"wonderland", True), (b"wrong", False), (b"", False), (None, False)])
async def test_the_same_users_come_with_a_password(scram: Broker, version: int, password: bytes | None, accepted: bool) -> None:
    client = await scram.socket(version)
    ack = await client.connect("old", username="alice", password=password)
    assert (ack.reason == 0) is accepted
    assert [session.key.user for session in scram.server.sessions.named("old")] == (["u/alice"] if accepted else [])


async def test_passwords_may_be_kept_out(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"alice:{Credential.make('wonderland', iterations=4096)}\n")
    plugins = {"plugins.scram.ScramPlugin": {"file": str(tmp_path / "users"), "passwords": False, "anonymous": True}}
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}
    async with running(plugins={**plugins, **anonymous}) as broker:
        client = await broker.socket(5)
        ack = await client.connect("old", username="alice", password=b"wonderland")
        # amqtt's plugin lets a client with any name in; it is nobody's name then.
        assert ack.reason == 0
        assert [session.key.user for session in broker.server.sessions.named("old")] == ["c/old"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot read"),
        ("alice:plain", "line 1: must be SCRAM-SHA-256"),
        ("\nalice", "line 2: must be <user>:<credential>"),
        ("alice:SCRAM-SHA-256$9:YQ==$YQ==:YQ==", "a key of 32 bytes"),
    ],
)
async def test_a_file_that_is_wrong_stops_the_start(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "users").write_text(text)
    server = Server(settings(plugins={"plugins.scram.ScramPlugin": {"file": str(tmp_path / "users")}}))
    with pytest.raises(StartError, match=problem):
        await server.start()
