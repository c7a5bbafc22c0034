"""CONNECT, CONNACK, and what may come before, with and after them (3.1, 3.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.encoder import encode
from broker.packets.model import ConnAck, Connect, Disconnect, PingReq, PingResp, PubAck, Publish, SubAck, Subscribe, Will
from broker.packets.properties import Properties, Property
from broker.sessions import lifecycle
from storage.errors import StorageUnavailable
from storage.records import Device, DeviceKey, Operation
from tests.support.broker import Broker, running
from tests.support.until import until


async def test_a_clean_session_is_never_present(broker: Broker, version: int) -> None:
    for _ in range(2):
        client = await broker.socket(version)
        ack = await client.connect("c")
        assert (ack.session_present, ack.reason) == (False, 0)
        await client.leave()


async def test_mqtt_3_1_is_spoken(broker: Broker) -> None:
    client = await broker.socket(3)
    await client.connect("old")
    assert await client.subscribe("t", options=1) == [1]
    client.send(Publish("t", b"x", 1, packet_id=9))
    got = {type(await client.receive()) for _ in range(2)}
    assert got == {PubAck, Publish}


async def test_3_1_is_told_of_no_session(broker: Broker) -> None:
    """It has one; but CONNACK has a reserved byte where later versions say so."""
    for _ in range(2):
        client = await broker.socket(3)
        assert await client.connect("old", clean=False) == ConnAck(False, 0)
        await client.leave()
    assert (await (await broker.socket(4)).connect("old", clean=False)).session_present


async def test_packets_behind_connect_are_processed_in_order_after_connack(broker: Broker, version: int) -> None:
    client = await broker.socket(version)
    client.send(
        Connect("eager", version),
        Subscribe(1, [("t", 1)]),
        Publish("t", b"one", 1, packet_id=2),
        PingReq(),
        Publish("t", b"two", 0),
    )
    await client.expect(ConnAck)
    rest = [await client.receive() for _ in range(5)]
    assert {type(packet) for packet in rest} == {SubAck, PubAck, Publish, PingResp}
    assert [packet.payload for packet in rest if isinstance(packet, Publish)] == [b"one", b"two"]


async def test_connect_publish_disconnect_in_one_write_is_a_publish(broker: Broker, version: int) -> None:
    watcher = await broker.client("watcher")
    await watcher.subscribe("t", options=1)
    client = await broker.socket(version)
    client.send(Connect("brief", version), Publish("t", b"hello", 1, packet_id=1), Disconnect())
    await client.closed()
    assert (await watcher.message()).payload == b"hello"


async def test_a_connect_may_come_byte_by_byte(broker: Broker, version: int) -> None:
    client = await broker.socket(version)
    for byte in encode(Connect("slow", version), version):
        client.send_bytes(bytes([byte]))
        await client.drained()
    assert (await client.expect(ConnAck)).reason == 0


async def test_a_socket_that_never_completes_its_connect_is_closed(version: int) -> None:
    async with running(mqtt={"connect_timeout": 0.2}) as broker:
        silent, partial = await broker.socket(version), await broker.socket(version)
        partial.send_bytes(encode(Connect("never", version), version)[:-1])
        assert await silent.closed() == []
        assert await partial.closed() == []


async def test_a_connected_client_outlives_the_connect_timeout() -> None:
    async with running(mqtt={"connect_timeout": 0.2}) as broker:
        client, silent = await broker.client("c"), await broker.socket()
        await silent.closed()
        await client.ping()


async def test_a_client_that_waits_for_storage_is_told_so_in_time(
    version: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read of its session does not come. Not that its login was at fault: it was right."""
    caplog.set_level(logging.INFO, "broker")
    monkeypatch.setattr(lifecycle, "IDLE", 0.0)
    monkeypatch.setattr(lifecycle, "_LOOK", 0.0)
    async with running(mqtt={"connect_timeout": 0.2}) as broker:
        await broker.lose(await broker.durable("c", version), "c")
        await until(lambda: not broker.server.sessions.named("c"))  # storage alone has it

        async def device(key: DeviceKey) -> Device | None:
            raise StorageUnavailable("the test says so")

        broker.server.storage.device = device  # type: ignore[method-assign]
        client = await broker.socket(version)
        client.send(Connect("c", version, False))
        assert (await client.expect(ConnAck)).reason == (ReasonCode.SERVER_UNAVAILABLE if version == 5 else 3)
        assert "refused: storage does not answer, try again" in caplog.text


async def test_a_client_whose_session_is_not_stored_is_told_so_after_the_storage_timeout(version: int) -> None:
    """It was not let in, so its will is none of anybody's. Once storage is back, it is let in as any."""
    async with running(mqtt={"connect_timeout": 0.1, "storage_timeout": 0.3}, errors=True) as broker:
        watcher = await broker.client("watcher")
        await watcher.subscribe("w")
        commit = broker.server.storage.commit

        async def away(group: Sequence[Operation]) -> None:
            raise StorageUnavailable("the test says so")

        broker.server.storage.commit = away  # type: ignore[method-assign]
        client = await broker.socket(version)
        client.send(Connect("c", version, False, will=Will("w", b"gone", 1, False)))
        assert (await client.expect(ConnAck)).reason == (ReasonCode.SERVER_UNAVAILABLE if version == 5 else 3)
        broker.server.storage.commit = commit  # type: ignore[method-assign]
        await until(lambda: broker.server.api.status().storage_available)
        again = await broker.durable("c", version)
        await again.publish("w", b"here")
        assert (await watcher.message()).payload == b"here"


async def test_who_has_to_wait_for_nobody_costs_no_task(version: int) -> None:
    """Nor a look into storage, where storage has no session of anybody that is not in memory."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        made.append(coroutine.cr_code.co_filename if hasattr(coroutine, "cr_code") else str(coroutine))
        return asyncio.Task(coroutine, loop=loop, **more)

    async with running() as broker:
        await broker.client("first", version)
        looked: list[DeviceKey] = []
        look = broker.server.storage.device

        async def device(key: DeviceKey) -> Device | None:
            looked.append(key)
            return await look(key)

        broker.server.storage.device = device  # type: ignore[method-assign]
        asyncio.get_running_loop().set_task_factory(factory)
        clean = await broker.client("clean", version, will=Will("w", b"", 0, False))
        durable = await broker.durable("durable", version)
        await broker.lose(durable, "durable")
        durable = await broker.durable("durable", version)  # it is in memory yet
        asyncio.get_running_loop().set_task_factory(None)
        await clean.ping()
        await durable.ping()
        of_each = [path for path in made if "/connection/" in path or "/net/" in path or "/sessions/" in path]
        assert not of_each
        assert not looked


async def test_an_empty_client_id_with_a_clean_session_is_given_one(broker: Broker) -> None:
    first, second = await broker.client(""), await broker.client("")
    await first.ping()
    await second.ping()


async def test_an_empty_client_id_without_a_clean_session_is_refused(broker: Broker) -> None:
    """[MQTT-3.1.3-8] of 3.1.1"""
    client = await broker.socket()
    client.send(Connect("", 4, clean_start=False))
    assert await client.closed() == [ConnAck(False, 2)]


async def test_v5_tells_the_client_id_that_it_assigned(broker: Broker) -> None:
    """[MQTT-3.1.3-6, 3.1.3-7]"""
    client = await broker.socket(5)
    ack = await client.connect("", clean=False, expiry=100)
    name = ack.properties[Property.ASSIGNED_CLIENT_ID]
    await client.leave()
    again = await broker.socket(5)
    ack = await again.connect(name, clean=False, expiry=100)
    assert ack.session_present
    assert Property.ASSIGNED_CLIENT_ID not in ack.properties


@pytest.mark.parametrize("level", [0, 6])
async def test_an_unknown_version_is_told_so(broker: Broker, level: int) -> None:
    """[MQTT-3.1.2-2] of 3.1.1, in its form: 5 leaves the refusal to the server"""
    client = await broker.socket(4)
    client.send_bytes(b"\x10\x0d\x00\x04MQTT" + bytes([level]) + b"\x02\x00\x00\x00\x01c")
    assert await client.closed() == [ConnAck(False, 1)]


async def test_what_is_not_called_mqtt_is_told_nothing(broker: Broker) -> None:
    """[MQTT-3.1.2-1]"""
    client = await broker.socket(5)
    client.send_bytes(b"\x10\x0e\x00\x04MQTX\x05\x02\x00\x00\x00\x00\x01c")
    assert await client.closed() == []


async def test_3_1_needs_a_client_id(broker: Broker) -> None:
    client = await broker.socket()
    client.send_bytes(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00")
    assert await client.closed() == [ConnAck(False, 2)]


async def test_v5_a_client_that_takes_no_connack_is_closed(broker: Broker) -> None:
    """[MQTT-3.2.2-15]: nothing that it could be told is small enough."""
    client = await broker.socket(5)
    client.send(Connect("c", 5, properties={Property.MAXIMUM_PACKET_SIZE: 2}))
    assert await client.closed() == []


async def test_v5_enhanced_authentication_that_nobody_offers_is_refused(broker: Broker) -> None:
    client = await broker.socket(5)
    client.send(Connect("c", 5, properties={Property.AUTHENTICATION_METHOD: "x" * 65535}))
    (ack,) = await client.closed()
    assert isinstance(ack, ConnAck)
    assert ack.reason == ReasonCode.BAD_AUTHENTICATION_METHOD


async def test_v5_connack_says_what_the_server_takes() -> None:
    limits = {"receive_maximum": 7, "max_packet_size": 4096, "topic_alias_maximum": 3, "retain_available": False}
    async with running(mqtt={**limits, "max_keep_alive": 30, "max_session_expiry": 60}) as broker:
        client = await broker.socket(5)
        told = (await client.connect("c", keep_alive=0, expiry=600)).properties
        assert told[Property.RECEIVE_MAXIMUM] == 7
        assert told[Property.MAXIMUM_PACKET_SIZE] == 4096
        assert told[Property.TOPIC_ALIAS_MAXIMUM] == 3
        assert told[Property.RETAIN_AVAILABLE] == 0
        assert told[Property.SERVER_KEEP_ALIVE] == 30
        assert told[Property.SESSION_EXPIRY] == 60


async def test_v5_connack_is_silent_about_what_was_granted_as_asked(broker: Broker) -> None:
    client = await broker.socket(5)
    told = (await client.connect("c", keep_alive=20, expiry=600)).properties
    assert not {Property.SERVER_KEEP_ALIVE, Property.SESSION_EXPIRY, Property.ASSIGNED_CLIENT_ID} & set(told)


async def test_v5_response_information_for_who_asks() -> None:
    async with running(mqtt={"response_information": "replies/"}) as broker:
        asking, other = await broker.socket(5), await broker.socket(5)
        ack = await asking.connect("a", properties={Property.REQUEST_RESPONSE_INFORMATION: 1})
        assert ack.properties[Property.RESPONSE_INFORMATION] == "replies/"
        assert Property.RESPONSE_INFORMATION not in (await other.connect("b")).properties


@pytest.mark.parametrize("setting", ["asked", "always", "never"])
@pytest.mark.parametrize("said", [None, 0, 1])
async def test_v5_reason_strings_only_where_they_are_wanted(setting: str, said: int | None) -> None:
    """[MQTT-3.1.2-29]"""
    async with running(mqtt={"reason_strings": setting}) as broker:
        client = await broker.socket(5)
        asked = [("tideline-acks", "on")]
        wishes: Properties = {} if said is None else {Property.REQUEST_PROBLEM_INFORMATION: said}
        await client.connect("c", properties={**wishes, Property.USER_PROPERTY: asked})
        client.send(Publish("$SYS/mine", b"", 1, packet_id=1), Publish("t", b"", 1, packet_id=2))
        ack = await client.expect(PubAck)
        assert ack.reason == ReasonCode.NOT_AUTHORIZED
        wanted = setting != "never" and (said == 1 or (said is None and setting == "always"))
        assert (Property.REASON_STRING in ack.properties) is wanted
        assert (Property.USER_PROPERTY in (await client.expect(PubAck)).properties) is (said != 0)


@pytest.mark.parametrize(("redirect", "code"), [("temporarily", 0x9C), ("permanently", 0x9D)])
async def test_clients_are_sent_to_another_server(redirect: str, code: int) -> None:
    """4.11; 3.1.1 has no word for it, and calls the server unavailable."""
    async with running(mqtt={"redirect": redirect, "server_reference": "b.example:1883"}) as broker:
        new, old = await broker.socket(5), await broker.socket(4)
        new.send(Connect("c", 5))
        assert await new.closed() == [ConnAck(False, code, {Property.SERVER_REFERENCE: "b.example:1883"})]
        old.send(Connect("c", 4))
        assert await old.closed() == [ConnAck(False, 3)]


async def test_a_shutdown_sends_clients_to_another_server() -> None:
    async with running(mqtt={"server_reference": "b.example c.example"}) as broker:
        new, old = await broker.client("new", 5), await broker.client("old", 4)
        await broker.server.stop()
        reference: Properties = {Property.SERVER_REFERENCE: "b.example c.example"}
        assert await new.closed() == [Disconnect(ReasonCode.USE_ANOTHER_SERVER, reference)]
        assert await old.closed() == []
