"""Stock aiomqtt in both versions, over every kind of listener."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.stock import WAYS, Stock, Way, way_name

WAIT = 30


def connect(stock: Stock, name: str, version: int, way: Way = WAYS[0], *, expiry: int = 0, **more: Any) -> aiomqtt.Client:
    """A client of the user of its name; ``expiry`` gives it a session that lasts so many seconds (3.1.1: for ever)."""
    host, port = stock.address(way)
    if version == 5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry
        more |= {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": not expiry, "properties": properties}
    else:
        more |= {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": not expiry}
    if way.transport == "websockets":
        more |= {"transport": "websockets", "websocket_path": "/mqtt"}
    if way.tls:
        more["tls_context"] = stock.certificates.client()
    return aiomqtt.Client(host, port, identifier=name, username=name, password=name, timeout=WAIT, **more)


async def take(client: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    """The next messages."""
    got: list[aiomqtt.Message] = []
    async with asyncio.timeout(WAIT):
        async for message in client.messages:
            got.append(message)
            if len(got) == count:
                break
    return got


@pytest.mark.parametrize("way", WAYS, ids=way_name)
async def test_messages_of_each_quality(stock: Stock, version: int, way: Way) -> None:
    topic = stock.name("t")
    async with (
        connect(stock, stock.name("reader"), version, way) as reader,
        connect(stock, stock.name("sender"), version, way) as sender,
    ):
        await reader.subscribe(f"{topic}/#", 2)
        for qos in (0, 1, 2):
            await sender.publish(f"{topic}/{qos}", b"x" * 20_000, qos)
            (message,) = await take(reader, 1)
            assert (str(message.topic), len(message.payload), message.qos) == (f"{topic}/{qos}", 20_000, qos)


async def test_a_device_gets_what_it_missed(stock: Stock, version: int) -> None:
    topic, name = stock.name("t"), stock.name("reader")
    async with connect(stock, name, version, expiry=600) as reader:
        await reader.subscribe(topic, 1)
    async with connect(stock, stock.name("sender"), version) as sender:
        for number in range(50):
            await sender.publish(topic, str(number), 1)
    async with connect(stock, name, version, expiry=600) as reader:
        assert [int(message.payload) for message in await take(reader, 50)] == list(range(50))


async def test_retained_messages_and_a_will(stock: Stock, version: int) -> None:
    topic = stock.name("t")
    will = aiomqtt.Will(f"{topic}/will", b"gone", 1)
    async with connect(stock, stock.name("reader"), version) as reader:
        fragile = connect(stock, stock.name("fragile"), version, will=will)
        await fragile.__aenter__()
        await fragile.publish(f"{topic}/kept", b"kept", 1, retain=True)
        await reader.subscribe(f"{topic}/#", 1)
        (message,) = await take(reader, 1)
        assert (message.payload, message.retain) == (b"kept", True)
        connection = fragile._client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)
        (message,) = await take(reader, 1)
        assert (str(message.topic), message.payload) == (f"{topic}/will", b"gone")
        async with asyncio.timeout(WAIT):
            with pytest.raises(aiomqtt.MqttError):  # else the reason is collected, and told of, in another test
                await anext(fragile.messages)
            await fragile.__aexit__(None, None, None)


async def test_what_is_not_allowed(stock: Stock, version: int) -> None:
    async with connect(stock, stock.name("one"), version) as client:
        granted = await client.subscribe("forbidden/x", 1)
        assert [code if isinstance(code, int) else code.value for code in granted] == [0x87 if version == 5 else 0x80]
    host, port = stock.address()
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client(host, port, identifier="x", username="somebody", password="guess", timeout=WAIT):
            pass


async def test_v5_properties_and_a_shared_subscription(stock: Stock) -> None:
    topic = stock.name("t")
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.UserProperty = [("k", "1"), ("k", "2")]
    async with connect(stock, stock.name("reader"), 5) as reader, connect(stock, stock.name("sender"), 5) as sender:
        await reader.subscribe(f"$share/g/{topic}", 1)
        await sender.publish(topic, b"x", 1, properties=properties)
        (message,) = await take(reader, 1)
        told: Any = message.properties
        assert (told.ContentType, told.UserProperty) == ("text/plain", [("k", "1"), ("k", "2")])
