"""amqtt's plugins in a whole broker, with paho-mqtt clients on real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from broker.config.settings import Settings
from broker.packets import PubAck
from broker.server import Server
from tests.plugin_host.third_party import OwnTopics
from tests.support.certificates import Certificates
from tests.support.paho_client import WAIT
from tests.support.paho_client import PahoClient as Client
from tests.support.until import until
from tests.support.wire import Client as Wire

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
FILE = "amqtt.plugins.authentication.FileAuthPlugin"
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
SYS = "amqtt.plugins.sys.broker.BrokerSysPlugin"
PACKETS = "amqtt.plugins.logging_amqtt.PacketLoggerPlugin"
THIRD = "tests.plugin_host.third_party."
MEMORY = {"persistence": {"url": "memory://"}, "sync": {}}


@pytest.fixture
async def broker() -> AsyncIterator[Callable[..., Any]]:
    """Starts a server with plugins (after storage in memory), and listeners on free ports."""
    servers: list[Server] = []

    async def start(plugins: dict[str, dict[str, Any]], **listener: Any) -> Server:
        settings = Settings.model_validate(
            {"listeners": [{"name": "mqtt", "bind": "127.0.0.1:0", **listener}], "plugins": MEMORY | plugins}
        )
        server = Server(settings)
        await server.start()
        servers.append(server)
        return server

    OwnTopics.asked.clear()
    OwnTopics.gate = None
    OwnTopics.failures = 0
    yield start
    for server in servers:
        async with asyncio.timeout(WAIT):
            await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(*names: Any, **options: Any) -> Client:
        made.append(Client(*names, **options))
        return made[-1]

    yield make
    for one in made:
        await asyncio.to_thread(one.close)


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "passwords"
    fast = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64),))
    path.write_text("".join(f"{user}:{fast.hash(user[::-1])}\n" for user in ("alice", "bob")))
    return path


def address(server: Server) -> tuple[str, int]:
    return server.addresses["mqtt"]


async def connected(server: Server, client: Client, *credentials: str) -> Client:
    assert await asyncio.to_thread(client.connect, address(server), *credentials) == "Success"
    return client


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
async def test_passwords_from_a_file(
    broker: Callable[..., Any], client: Callable[..., Any], passwords: Path, version: int
) -> None:
    server = await broker({FILE: {"password_file": str(passwords)}})
    assert await asyncio.to_thread(client("phone", version).connect, address(server), "alice", "ecila") == "Success"
    wrong = await asyncio.to_thread(client("pad", version).connect, address(server), "alice", "guess")
    assert wrong == "Bad user name or password"
    assert await asyncio.to_thread(client("tv", version).connect, address(server)) == "Not authorized"


async def test_devices_of_a_user_share_an_inbox_and_a_claimed_name_does_not(
    broker: Callable[..., Any], client: Callable[..., Any], passwords: Path
) -> None:
    server = await broker({FILE: {"password_file": str(passwords)}, ANONYMOUS: {}})
    await connected(server, client("phone"), "alice", "ecila")
    await connected(server, client("pad"), "alice", "ecila")
    await connected(server, client("tv"))
    users = {state.client_id: state.user for state in server.api.sessions()}
    assert users == {"phone": "u/alice", "pad": "u/alice", "tv": "c/tv"}


async def test_amqtts_acl(broker: Callable[..., Any], client: Callable[..., Any], passwords: Path) -> None:
    acl = {"publish_acl": {"alice": ["home/#"]}, "acl": {"alice": ["home/#"], "bob": ["home/door"]}}
    server = await broker({FILE: {"password_file": str(passwords)}, ACL: acl})
    alice = await connected(server, client("phone"), "alice", "ecila")
    bob = await connected(server, client("pad"), "bob", "bob")
    assert await asyncio.to_thread(bob.subscribe, "home/door")
    assert not await asyncio.to_thread(bob.subscribe, "home/#")
    await asyncio.to_thread(bob.publish, "home/door", b"bob was here")  # 3.1.1: acknowledged, and goes nowhere
    await asyncio.to_thread(alice.publish, "away", b"nor this")
    await asyncio.to_thread(alice.publish, "home/door", b"open")
    assert await asyncio.to_thread(bob.receive) == ("home/door", b"open")
    assert server.counters.acl_denied == 3  # a filter, and two messages
    assert bob.messages.empty()


async def test_what_a_client_may_not_is_in_the_log(
    broker: Callable[..., Any], client: Callable[..., Any], passwords: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A 3.1.1 publisher is told nothing, so whoever writes the rules must be."""
    acl = {"publish_acl": {"alice": ["home/#"]}, "acl": {"alice": ["home/#"]}}
    server = await broker({FILE: {"password_file": str(passwords)}, ACL: acl})
    bob = await connected(server, client("pad"), "bob", "bob")
    for topic in ("home/door", "home/door", "home/roof"):  # a second topic is not hidden by the first
        await asyncio.to_thread(bob.publish, topic, b"x")
    assert not await asyncio.to_thread(bob.subscribe, "home/#")
    plugin = "TopicAccessControlListPlugin said no"
    for what in ("publish to 'home/door'", "publish to 'home/roof'", "subscribe to 'home/#'"):
        (line,) = [one for one in caplog.messages if what in one]
        assert line.startswith("client 'pad' at 127.0.0.1:")
        assert f", user 'bob': may not {what}: {plugin}" in line
    await asyncio.to_thread(bob.publish, "$SYS/x", b"x")
    assert "may not publish to '$SYS/x': it is reserved for the broker" in caplog.text


async def test_a_refused_login_is_in_the_log_with_user_and_plugin(
    broker: Callable[..., Any], client: Callable[..., Any], passwords: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "broker")
    server = await broker({FILE: {"password_file": str(passwords)}})
    for name, password in (("bob", "s3cret"), ("bob", "s3cret"), ("eve", "s3cret")):
        with pytest.raises(AssertionError):
            await connected(server, client("pad"), name, password)
    assert sum("user 'bob': refused: FileAuthPlugin said no" in line for line in caplog.messages) == 1
    assert "user 'eve': refused: FileAuthPlugin said no" in caplog.text
    await connected(server, client("pad"), "bob", "bob")
    (line,) = [line for line in caplog.messages if line.startswith("connected: 'pad' at 127.0.0.1:")]
    assert line.endswith(" as 'u/bob'")
    assert "s3cret" not in caplog.text


async def test_version_5_is_told_that_it_may_not(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    server = await broker({THIRD + "Tokens": {}, THIRD + "OwnTopics": {}})
    alice = await connected(server, client("phone", paho.MQTTv5), "alice", "ecila")
    assert await asyncio.to_thread(alice.publish, "bob/x", b"no") == "Not authorized"


@pytest.mark.parametrize("plugin", ["OwnTopics", "Moody"])
async def test_an_acl_on_all_three_actions(broker: Callable[..., Any], client: Callable[..., Any], plugin: Any) -> None:
    server = await broker({THIRD + "Tokens": {}, THIRD + plugin: {"shared": ["#", "bob/x"]}})
    alice = await connected(server, client("phone"), "alice", "ecila")
    bob = await connected(server, client("pad"), "bob", "bob")
    assert await asyncio.to_thread(alice.subscribe, "#")  # may subscribe to it, and receives what it may
    for topic, payload in (("bob/private", b"1"), ("bob/x", b"2"), ("bob/private", b"3"), ("alice/no", b"4"), ("bob/x", b"5")):
        await asyncio.to_thread(bob.publish, topic, payload)
    assert [await asyncio.to_thread(alice.receive) for _ in range(2)] == [("bob/x", b"2"), ("bob/x", b"5")]
    asked = set(OwnTopics.asked)
    assert {("alice", "subscribe", "#"), ("alice", "receive", "bob/x"), ("bob", "publish", "alice/no")} <= asked
    assert ("alice", "receive", "alice/no") not in asked


async def test_an_acl_service_that_is_away_loses_no_message(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    server = await broker({THIRD + "Tokens": {}, THIRD + "OwnTopics": {"shared": ["bob/x", "bob/y"]}})
    alice = await connected(server, client("phone"), "alice", "ecila")
    bob = await connected(server, client("pad"), "bob", "bob")
    assert await asyncio.to_thread(alice.subscribe, "bob/x")
    assert await server.access.allowed(server.sessions.named("pad")[0].connection.info, "publish", "bob/x")
    OwnTopics.failures = 2  # both of them about what alice may receive
    await asyncio.to_thread(bob.publish, "bob/x", b"kept")
    assert await asyncio.to_thread(alice.receive) == ("bob/x", b"kept")
    assert OwnTopics.failures == 0


async def test_the_packet_logger(
    broker: Callable[..., Any], client: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "broker.plugins")
    server = await broker({THIRD + "Tokens": {}, PACKETS: {}})
    alice = await connected(server, client("phone"), "alice", "ecila")
    assert await asyncio.to_thread(alice.subscribe, "a")
    await asyncio.to_thread(alice.publish, "a", b"hello")
    await asyncio.to_thread(alice.receive)
    await asyncio.to_thread(alice.close)
    await server.stop()
    for line in (
        "<-in-- ConnectPacket",
        "phone -out-> ConnackPacket",
        "phone <-in-- SubscribePacket",
        "phone -out-> SubackPacket",
        "phone <-in-- PublishPacket",
        "phone -out-> PubackPacket",
        "phone -out-> PublishPacket",
        "phone <-in-- PubackPacket",
        "phone <-in-- DisconnectPacket",
    ):
        assert line in caplog.text, line
    assert "ecila" not in caplog.text


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
async def test_a_third_party_plugin_hears_everything(
    broker: Callable[..., Any], client: Callable[..., Any], version: int
) -> None:
    server = await broker({THIRD + "Recorder": {}, ANONYMOUS: {}})
    recorder = server.plugin_host.plugins.get_plugin("Recorder")
    phone = await connected(server, client("phone", version))
    assert await asyncio.to_thread(phone.subscribe, "a/#", 2)
    await asyncio.to_thread(phone.publish, "a/b", b"hello", 2, True)
    await asyncio.to_thread(phone.receive)
    phone.paho.unsubscribe("a/#")
    await until(lambda: recorder.named("unsubscribed"))
    await asyncio.to_thread(phone.close)
    await server.stop()
    assert recorder.heard[:2] == [("pre_start", {}), ("post_start", {})]
    assert [values["client_id"] for values in recorder.named("connected")] == ["phone"]
    assert recorder.named("connected")[0]["session"].remote_address == "127.0.0.1"
    assert recorder.named("subscribed") == [{"client_id": "phone", "topic": "a/#", "qos": 2}]
    for name in ("received", "broadcast"):
        (heard,) = recorder.named(name)
        message = heard["message"]
        assert (heard["client_id"], message.topic, message.data, message.qos, message.retain) == (
            "phone",
            "a/b",
            b"hello",
            2,
            True,
        )
    assert [values["message"].data for values in recorder.named("retained")] == [b"hello"]
    assert recorder.named("unsubscribed") == [{"client_id": "phone", "topic": "a/#"}]
    assert [values["client_id"] for values in recorder.named("disconnected")] == ["phone"]
    assert {"ConnectPacket", "PublishPacket", "PubrelPacket"} <= {
        type(v["packet"]).__name__ for v in recorder.named("packet in")
    }
    assert {"ConnackPacket", "PubrecPacket", "PubcompPacket"} <= {
        type(v["packet"]).__name__ for v in recorder.named("packet out")
    }
    assert recorder.closed


async def test_a_plugin_hears_of_each_acknowledgement_of_many(broker: Callable[..., Any]) -> None:
    server = await broker({THIRD + "Recorder": {}, ANONYMOUS: {}})
    recorder = server.plugin_host.plugins.get_plugin("Recorder")
    phone = await Wire.open(address(server))
    await phone.connect("phone")
    phone.send(PubAck(1), PubAck(2), PubAck(3))
    await phone.ping()
    await until(lambda: [type(v["packet"]).__name__ for v in recorder.named("packet in")][1:4] == ["PubackPacket"] * 3)
    await phone.leave()
    await server.stop()


async def test_amqtts_sys_topics(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    server = await broker({ANONYMOUS: {}, SYS: {"sys_interval": 1}})
    phone = await connected(server, client("phone"))
    assert await asyncio.to_thread(phone.subscribe, "$SYS/broker/#")
    found: dict[str, bytes] = {}
    async with asyncio.timeout(WAIT):
        while "$SYS/broker/messages/subscriptions/count" not in found:
            topic, payload = await asyncio.to_thread(phone.receive)
            found[topic] = payload
    assert found["$SYS/broker/version"].startswith(b"aMQTT version")
    assert found["$SYS/broker/clients/connected"] == b"1"
    assert int(found["$SYS/broker/load/bytes/received"]) > 0


async def test_our_sys_topics(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    server = await broker({ANONYMOUS: {}, "sys": {"interval": 0.1}})
    phone = await connected(server, client("phone"))
    await asyncio.to_thread(phone.publish, "a", b"12345")
    assert await asyncio.to_thread(phone.subscribe, "$SYS/broker/#")
    found: dict[str, bytes] = {}
    async with asyncio.timeout(WAIT):
        while found.get("$SYS/broker/publish/messages/received") != b"1" or len(found) < 60:
            topic, payload = await asyncio.to_thread(phone.receive)
            found[topic] = payload
    assert found["$SYS/broker/clients/connected"] == b"1"
    assert found["$SYS/broker/tideline/storage/state"] == b"available"
    assert not await server.storage.retained_range("", "", 1)  # $SYS is kept in memory only


async def test_sys_topics_tell_that_storage_is_away(
    broker: Callable[..., Any], client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.errors import StorageUnavailable

    server = await broker({ANONYMOUS: {}, "sys": {"interval": 0.05}})
    phone = await connected(server, client("phone"))
    assert await asyncio.to_thread(phone.subscribe, "$SYS/broker/tideline/storage/state")
    assert (await asyncio.to_thread(phone.receive))[1] == b"available"

    async def away(group: object) -> None:
        raise StorageUnavailable("the cable was pulled")

    with monkeypatch.context() as context:
        context.setattr(server.storage, "commit", away)
        phone.paho.publish("a", b"waits", 1)
        assert (await asyncio.to_thread(phone.receive))[1] == b"unavailable"
    assert (await asyncio.to_thread(phone.receive))[1] == b"available"


async def test_policies(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    policies = [{"filter": "telemetry/#", "mode": "store"}, {"filter": "debug/#", "mode": "none"}]
    server = await broker({"persistence": {"url": "memory://", "policies": policies}, ANONYMOUS: {}})
    phone = await connected(server, client("phone", clean_session=False))
    assert await asyncio.to_thread(phone.subscribe, "#")
    topics = ["telemetry/x", "debug/x", "chat/x"]
    for topic in topics:
        await asyncio.to_thread(phone.publish, topic, b"live")
    assert sorted([(await asyncio.to_thread(phone.receive))[0] for _ in topics]) == sorted(topics)
    assert [len(await server.storage.read_conversation(topic)) for topic in topics] == [1, 0, 1]
    assert await server.storage.inbox_head("c/phone") == 1


async def test_over_websocket(broker: Callable[..., Any], client: Callable[..., Any]) -> None:
    server = await broker({ANONYMOUS: {}}, type="ws")
    phone = client("phone", transport="websockets")
    phone.paho.ws_set_options("/mqtt")
    await connected(server, phone)
    assert await asyncio.to_thread(phone.subscribe, "a")
    for size in (1, 200, 70_000):
        await asyncio.to_thread(phone.publish, "a", b"x" * size)
        assert len((await asyncio.to_thread(phone.receive))[1]) == size


async def test_the_certificate_plugin(broker: Callable[..., Any], client: Callable[..., Any], tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    tls = {"certfile": str(files.server), "keyfile": str(files.server_key), "cafile": str(files.ca)}
    server = await broker({"amqtt.contrib.cert.UserAuthCertPlugin": {"uri_domain": "fleet"}}, tls=tls)
    told = {}
    for name, with_certificate in (("phone", True), ("pad", True), ("tv", False)):
        one = client(name)
        one.paho.tls_set_context(files.client(with_certificate=with_certificate))
        told[name] = await asyncio.to_thread(one.connect, ("localhost", address(server)[1]), "root")
    assert told["phone"] == "Success"
    assert {told["pad"], told["tv"]} == {"Bad user name or password"}
    assert [state.user for state in server.api.sessions()] == ["c/phone"]
