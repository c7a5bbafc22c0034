"""amqtt's plugins load unchanged, see the server, and hear what happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from amqtt.plugins.sys.broker import BrokerSysPlugin

from broker.access.identity import AuthRequest, Identity
from broker.access.session_info import SessionInfo
from broker.amqtt.api import SessionState
from broker.amqtt.plugin_host import BrokerEvents, MQTTEvents, PluginHost
from broker.errors import StartError
from broker.hooks import GroupPlugin
from broker.packets import model
from storage.records import DeviceKey, Message
from tests.plugin_host.servers import PlainServer
from tests.support.until import until

THIRD = "tests.plugin_host.third_party."
EVENTS = "amqtt.plugins.logging_amqtt.EventLoggerPlugin"
PACKETS = "amqtt.plugins.logging_amqtt.PacketLoggerPlugin"
SYS = "amqtt.plugins.sys.broker.BrokerSysPlugin"
ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"

DEVICE = DeviceKey("c/phone", "phone")


def client(name: str = "phone") -> SessionInfo:
    return SessionInfo(Identity(f"c/{name}"), AuthRequest(name, peer="10.0.0.1:7", keep_alive=60))


def message(topic: str = "a/b", payload: bytes = b"x", qos: int = 1, retain: bool = False) -> Message:
    return Message(1, topic, "c/phone", "phone", 0, qos, payload, retain)


class TestLoading:
    async def test_amqtts_own_plugins(self, host_of: Callable[..., PluginHost]) -> None:
        plugin_host = host_of({EVENTS: {}, PACKETS: {}, ANONYMOUS: {"allow_anonymous": False}, SYS: {"sys_interval": 5}})
        assert len(plugin_host.plugins.plugins) == 4
        assert len(plugin_host.plugins.auth_plugins) == 1
        assert plugin_host.plugins.get_plugin("BrokerSysPlugin").config.sys_interval == 5

    async def test_no_warnings_that_nobody_can_act_upon(
        self, host_of: Callable[..., PluginHost], recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        host_of({SYS: {}, "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {"acl": {"a": ["b"]}}})
        assert not recwarn.list
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_our_plugins_are_found_by_what_they_are(self, host_of: Callable[..., PluginHost]) -> None:
        plugin_host = host_of(
            {
                "plugins.persistence.PersistencePlugin": {"url": "memory://"},
                "plugins.sync.InboxPlugin": {"start": "earliest"},
                THIRD + "Recorder": {},
            }
        )
        assert [type(plugin).__name__ for plugin in plugin_host.group_plugins] == ["PersistencePlugin"]
        assert isinstance(plugin_host.group_plugins[0], GroupPlugin)
        assert plugin_host.storage_plugin is plugin_host.group_plugins[0]
        assert plugin_host.sync_plugin is not None
        assert plugin_host.sync_plugin.start_position() == "earliest"

    async def test_without_any(self, host_of: Callable[..., PluginHost]) -> None:
        plugin_host = host_of({})
        assert plugin_host.storage_plugin is None
        assert plugin_host.sync_plugin is None
        assert not any(plugin_host.listens(event) for event in [*BrokerEvents, *MQTTEvents])

    async def test_text_from_the_environment_becomes_what_the_plugin_wants(self, host_of: Callable[..., PluginHost]) -> None:
        plugin_host = host_of({THIRD + "Fussy": {"size": "7", "ratio": "2", "name": "x"}, ANONYMOUS: {"allow-anonymous": "no"}})
        config = plugin_host.plugins.get_plugin("Fussy").config
        assert (config.size, config.ratio, config.name) == (7, 2.0, "x")
        assert plugin_host.plugins.get_plugin("AnonymousAuthPlugin").config.allow_anonymous is False

    @pytest.mark.parametrize(
        ("path", "options", "told"),
        [
            ("no.such.module.Plugin", {}, "plugins: no.such.module.Plugin: cannot be imported: No module named 'no'"),
            (THIRD + "Missing", {}, "cannot be imported"),
            (THIRD + "NotAPlugin", {}, "is not an amqtt plugin"),
            (THIRD + "Fussy", {"sise": 1}, "sise: unknown setting, did you mean 'size'?"),
            (THIRD + "Fussy", {"colour": 1}, "colour: unknown setting; there is name, nested, ratio, size"),
            (THIRD + "Fussy", {"size": "many"}, "size: 'many' must be a whole number"),
            (THIRD + "Fussy", {"name": 3}, "name: 3 must be text"),
            (THIRD + "Fussy", {"size": 11}, "size 11 is too large"),
            (THIRD + "Blocking", {}, "'on_broker_pre_start' for 'Blocking' is not a coroutine"),
            (THIRD + "Late", {}, "Late: arrived must be a plain function (def, not async def)"),
            (THIRD + "Late", {}, "; ended must be a plain function"),
            (THIRD + "LateBouncer", {}, "bars must be a plain function"),
            ("amqtt.contrib.jwt.UserAuthJwtPlugin", {"secret_key": "k3y"}, "amqtt.contrib.jwt.UserAuthJwtPlugin: "),
            ("plugins.sync.InboxPlugin", {"start": "yesterday"}, "start: 'yesterday' must be latest"),
            ("plugins.persistence.PersistencePlugin", {"policies": [{"filter": "a/#/b", "mode": "none"}]}, "'#' must be"),
            (
                "plugins.persistence.PersistencePlugin",
                {"policies": [{"filter": "a", "mode": "some"}]},
                "mode: 'some' must be",
            ),
        ],
    )
    async def test_what_is_wrong_is_said_in_one_line(
        self, host_of: Callable[..., PluginHost], path: str, options: Any, told: Any
    ) -> None:
        with pytest.raises(StartError) as caught:
            host_of({path: options})
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "k3y" not in str(caught.value)

    async def test_one_storage_only(self, host_of: Callable[..., PluginHost]) -> None:
        with pytest.raises(StartError, match="only one plugin provides the storage"):
            host_of({"plugins.persistence.PersistencePlugin": {"url": "memory://"}, THIRD + "Second": {"url": "memory://"}})


class TestEvents:
    async def test_a_third_party_plugin_hears_everything_in_order(self, host_of: Callable[..., PluginHost]) -> None:
        plugin_host = host_of({THIRD + "Recorder": {}})
        recorder = plugin_host.plugins.get_plugin("Recorder")
        phone = client()
        await plugin_host.fire_and_wait(BrokerEvents.PRE_START)
        await plugin_host.fire_and_wait(BrokerEvents.POST_START)
        plugin_host.packet_received(None, model.Connect("phone", username="alice", password=b"s3cret"))
        plugin_host.client_connected(phone)
        plugin_host.client_subscribed(DEVICE, "a/#", 1)
        plugin_host.message_received(phone, message(), 9)
        plugin_host.message_broadcast(phone, message(), 9)
        plugin_host.retained(message(retain=True))
        plugin_host.client_unsubscribed(DEVICE, "a/#")
        plugin_host.packet_sent(phone, model.PubAck(9))
        plugin_host.client_disconnected(phone)
        await plugin_host.close()
        assert [event for event, _ in recorder.heard] == [
            "pre_start",
            "post_start",
            "packet in",
            "connected",
            "subscribed",
            "received",
            "broadcast",
            "retained",
            "unsubscribed",
            "packet out",
            "disconnected",
        ]
        assert recorder.closed
        session = recorder.named("connected")[0]["session"]
        assert (session.client_id, session.remote_address, session.remote_port, session.keep_alive) == (
            "phone",
            "10.0.0.1",
            7,
            60,
        )
        assert session.transitions.state == "disconnected"
        received = recorder.named("received")[0]["message"]
        assert (received.topic, received.data, received.qos, received.packet_id) == ("a/b", b"x", 1, 9)
        assert received.publish_packet.topic_name == "a/b"
        retained = recorder.named("retained")[0]
        assert (retained["client_id"], retained["message"].topic, retained["message"].data) == (None, "a/b", b"x")
        connect = recorder.named("packet in")[0]["packet"]
        assert (connect.client_id, connect.username) == ("phone", "alice")
        assert "s3cret" not in repr(connect)

    async def test_nobody_listens_nothing_is_built(
        self, host_of: Callable[..., PluginHost], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broker.amqtt.plugin_host.to_amqtt", lambda packet: pytest.fail("built for nobody"))
        plugin_host = host_of({ANONYMOUS: {}})
        phone = client()
        plugin_host.packet_received(phone, model.PingReq())
        plugin_host.client_connected(phone)
        plugin_host.message_received(phone, message())
        plugin_host.client_disconnected(phone)
        assert phone.seen is None

    async def test_the_loggers_cost_nothing_where_they_would_not_log(self, host_of: Callable[..., PluginHost]) -> None:
        for name in ("EventLoggerPlugin", "PacketLoggerPlugin"):
            logging.getLogger(f"broker.plugins.{name}").setLevel(logging.INFO)
        try:
            plugin_host = host_of({EVENTS: {}, PACKETS: {}})
        finally:
            for name in ("EventLoggerPlugin", "PacketLoggerPlugin"):
                logging.getLogger(f"broker.plugins.{name}").setLevel(logging.NOTSET)
        assert plugin_host.listens(BrokerEvents.CLIENT_CONNECTED)
        assert not plugin_host.listens(BrokerEvents.MESSAGE_RECEIVED)
        assert not plugin_host.listens(MQTTEvents.PACKET_SENT)

    async def test_the_loggers_log(self, host_of: Callable[..., PluginHost], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "broker.plugins")
        plugin_host = host_of({EVENTS: {}, PACKETS: {}})
        phone = client()
        plugin_host.client_connected(phone)
        plugin_host.packet_received(phone, model.Publish("a/b", b"hello", 1, packet_id=3))
        await plugin_host.close()
        assert "### 'on_broker_client_connected' EVENT FIRED ###" in caplog.text
        assert "phone <-in-- PublishPacket" in caplog.text

    async def test_a_slow_or_failing_plugin_holds_up_nobody_for_long(
        self, host_of: Callable[..., PluginHost], server: PlainServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin_host = host_of({THIRD + "Lazy": {}, THIRD + "Clumsy": {}, THIRD + "Recorder": {}}, hook_timeout=0.05)
        recorder = plugin_host.plugins.get_plugin("Recorder")
        plugin_host.client_connected(client())
        await until(lambda: recorder.heard)
        assert server.counters.hook_errors == 2
        assert "clumsy" in caplog.text

    async def test_a_plugin_that_is_cancelled_from_within_costs_the_others_no_event(
        self, host_of: Callable[..., PluginHost], server: PlainServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin_host = host_of({THIRD + "Giddy": {}, THIRD + "Recorder": {}})
        recorder = plugin_host.plugins.get_plugin("Recorder")
        plugin_host.client_connected(client())
        await until(lambda: recorder.heard)
        assert server.counters.hook_errors == 1
        assert "Giddy.on_broker_client_connected failed" in caplog.text
        assert "it awaited what was cancelled" in caplog.text

    async def test_events_above_the_bound_are_dropped_and_counted(
        self, host_of: Callable[..., PluginHost], server: PlainServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin_host = host_of({THIRD + "Lazy": {}}, hook_timeout=0.01, event_queue=10)
        for _ in range(25):
            plugin_host.client_connected(client())
        assert server.counters.events_dropped == 15
        assert caplog.text.count("plugins are too slow") == 1


class TestPackets:
    @pytest.mark.parametrize(
        ("packet", "wire"),
        [
            (model.Publish("a/b", b"hi", 1, True, True, 10), b"\x3b\x09\x00\x03a/b\x00\x0ahi"),
            (model.Publish("a", b""), b"\x30\x03\x00\x01a"),
            (model.PubAck(1), b"\x40\x02\x00\x01"),
            (model.PubRec(1), b"\x50\x02\x00\x01"),
            (model.PubRel(1), b"\x62\x02\x00\x01"),
            (model.PubComp(1), b"\x70\x02\x00\x01"),
            (model.Subscribe(2, [("a/#", 0x2D)]), b"\x82\x08\x00\x02\x00\x03a/#\x01"),
            (model.SubAck(2, [1, 0x80]), b"\x90\x04\x00\x02\x01\x80"),
            (model.Unsubscribe(3, ["a"]), b"\xa2\x05\x00\x03\x00\x01a"),
            (model.UnsubAck(3, [0]), b"\xb0\x02\x00\x03"),
            (model.ConnAck(True, 0), b"\x20\x02\x01\x00"),
            (model.PingReq(), b"\xc0\x00"),
            (model.PingResp(), b"\xd0\x00"),
            (model.Disconnect(), b"\xe0\x00"),
            (
                model.Connect("me", 4, False, 60, "u", b"pw", model.Will("w", b"bye", 2, True)),
                b"\x10\x1e\x00\x04MQTT\x04\xf4\x00\x3c\x00\x02me\x00\x01w\x00\x03bye\x00\x01u\x00\x03***",
            ),
        ],
    )
    async def test_amqtts_packets_say_the_same(self, packet: Any, wire: Any) -> None:
        from broker.amqtt.packets import to_amqtt

        built = to_amqtt(packet)
        assert built is not None
        assert built.to_bytes() == wire
        assert built.fixed_header.remaining_length == len(wire) - 2
        assert repr(built)

    async def test_what_amqtt_does_not_know_is_left_out(self) -> None:
        from broker.amqtt.packets import to_amqtt

        assert to_amqtt(model.Auth()) is None


class TestContext:
    async def test_sessions(self, host_of: Callable[..., PluginHost], server: PlainServer) -> None:
        phone = client()
        server.states["phone"] = SessionState("c/phone", "phone", True, False, phone, 1, 2, 3)
        server.states["pad"] = SessionState("u/alice", "pad", False, False)
        context = host_of({}).context
        sessions = {session.client_id: session for session in context.sessions}
        assert set(sessions) == {"phone", "pad"}
        assert sessions["phone"] is phone.session
        assert sessions["phone"].inflight_in_count == 1
        assert sessions["phone"].inflight_out_count == 2
        assert sessions["phone"].retained_messages_count == 3
        assert context.get_session("pad").username == "alice"
        assert context.get_session("pad").transitions.is_disconnected()
        assert context.get_session("nobody") is None

    async def test_subscriptions(self, host_of: Callable[..., PluginHost], server: PlainServer) -> None:
        server.states["phone"] = SessionState("c/phone", "phone", True, True, client())
        server.filters += [("a/#", "phone", 1), ("b", "phone", 0), ("a/#", "gone", 2)]
        found = host_of({}).context.subscriptions
        assert {filter: [(session.client_id, qos) for session, qos in subs] for filter, subs in found.items()} == {
            "a/#": [("phone", 1), ("gone", 2)],
            "b": [("phone", 0)],
        }

    async def test_broadcast_and_retain_go_through_the_server(
        self, host_of: Callable[..., PluginHost], server: PlainServer
    ) -> None:
        context = host_of({}).context
        await context.broadcast_message("news", b"1")
        await context.broadcast_message("news", b"2", 1)
        await context.retain_message("$SYS/broker/version", b"3")
        await context.retain_message("news", bytearray(b"4"), 0)
        assert server.published == [
            ("news", b"1", 2, False, True),
            ("news", b"2", 1, False, True),
            ("$SYS/broker/version", b"3", 0, True, False),
            ("news", b"4", 0, True, True),
        ]

    async def test_retained_messages_can_be_read_and_written(
        self, host_of: Callable[..., PluginHost], server: PlainServer
    ) -> None:
        context = host_of({}).context
        await context.retain_message("a", b"1")
        retained = context.retained_messages
        assert len(retained) == 1
        assert list(retained) == ["a"]
        assert retained["a"].data == b"1"
        assert "b" not in retained
        retained["b"] = retained["a"]
        del retained["a"]
        await server.until("b")
        async with asyncio.timeout(30):
            while "a" in server.kept:
                await asyncio.sleep(0)
        with pytest.raises(KeyError):
            del retained["a"]

    async def test_a_plugin_may_make_a_session_and_subscribe_it(
        self, host_of: Callable[..., PluginHost], server: PlainServer
    ) -> None:
        context = host_of({}).context
        await context.add_subscription("robot", None, None)
        assert context.get_session("robot").transitions.is_disconnected()
        await context.add_subscription("robot", "a/#", 1)
        assert server.filters == [("a/#", "robot", 1)]
        assert context.get_session("robot").user_key == "c/robot"

    async def test_amqtts_sys_plugin_works_unchanged(self, host_of: Callable[..., PluginHost], server: PlainServer) -> None:
        plugin_host = host_of({SYS: {"sys_interval": 1}})
        plugin = plugin_host.plugins.get_plugin("BrokerSysPlugin")
        assert isinstance(plugin, BrokerSysPlugin)
        await plugin_host.fire_and_wait(BrokerEvents.PRE_START)
        await plugin_host.fire_and_wait(BrokerEvents.POST_START)
        phone = client()
        server.states["phone"] = SessionState("c/phone", "phone", True, False, phone)
        server.filters.append(("a", "phone", 0))
        plugin_host.client_connected(phone)
        plugin_host.packet_received(phone, model.Publish("a/b", b"hello"))
        assert (await server.until("$SYS/broker/version")).startswith(b"aMQTT version")
        assert await server.until("$SYS/broker/clients/connected") == b"1"
        assert await server.until("$SYS/broker/messages/publish/received") == b"1"
        assert await server.until("$SYS/broker/load/bytes/received") == b"12"
        assert await server.until("$SYS/broker/messages/subscriptions/count") == b"1"
        await plugin_host.fire_and_wait(BrokerEvents.PRE_SHUTDOWN)


async def test_the_light_session_is_an_amqtt_session() -> None:
    """Every attribute that amqtt's own has is there, with the same default."""
    import pickle

    from amqtt.session import Session

    from broker.access.amqtt_session import LightSession

    theirs, ours = Session(), LightSession()
    for name, value in vars(theirs).items():
        if name == "transitions":
            continue
        if type(value).__module__ == "builtins" or value is None:
            assert getattr(ours, name) == value, name
        else:
            assert type(getattr(ours, name)) is type(value), name
    assert ours.transitions.state == theirs.transitions.state == "new"
    theirs.client_id = ours.client_id = "x"
    assert ours == theirs
    assert [ours.next_packet_id, ours.next_packet_id] == [theirs.next_packet_id, theirs.next_packet_id] == [1, 2]
    for trigger in ("connect", "disconnect"):
        getattr(theirs.transitions, trigger)()
        getattr(ours.transitions, trigger)()
        assert ours.transitions.state == theirs.transitions.state
    ours.clear_queues()
    assert pickle.loads(pickle.dumps(ours)).client_id == "x"
