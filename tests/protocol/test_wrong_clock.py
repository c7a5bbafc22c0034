"""A wall clock that is set, or was in a wrong year once, delays nothing that expires, and ends nothing early."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from broker.clock import ServerTime
from broker.packets.model import Will
from broker.packets.properties import Property
from storage.records import DeviceKey
from tests.support.broker import Broker, running
from tests.support.laws_process import BrokerProcess
from tests.support.until import until
from tests.support.wire import Client

YEARS = 3650 * 86400.0
STEPS = [-3600.0, 3600.0, -YEARS, YEARS]


class WallClock:
    """The machine's, wrong by ``error`` seconds."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def time(self) -> ServerTime:
        return ServerTime(lambda: time.time() + self.error)


async def everything_ends_in_its_time(broker: Broker) -> None:
    """A will, a session, a waiting message and a retained one that last a second are over after it; longer ones are not."""
    watcher, writer = await broker.client("watcher", 5), await broker.client("writer", 5)
    await watcher.subscribe("will/#")
    away = await broker.durable("away", 5)
    await away.subscribe("news", options=1)
    await broker.lose(away, "away")
    for topic in ("news", "kept"):
        retain = topic == "kept"
        await writer.publish(topic, b"short", retain=retain, properties={Property.MESSAGE_EXPIRY: 1})
    await writer.publish("news", b"long", properties={Property.MESSAGE_EXPIRY: 100})
    await writer.publish("kept/long", b"long", retain=True, properties={Property.MESSAGE_EXPIRY: 100})
    await broker.lose(await broker.client("short", 5, clean=False, expiry=1), "short")
    await broker.lose(await broker.client("long", 5, clean=False, expiry=100), "long")
    began = broker.server.clock.now()
    will = Will("will/c", b"gone", properties={Property.WILL_DELAY: 1})
    await broker.lose(await broker.durable("dies", 5, will=will), "dies")
    assert (await watcher.message()).payload == b"gone"
    assert 1.0 <= broker.server.clock.now() - began <= 30.0
    await until(lambda: not broker.server.sessions.named("short"))
    assert (await (await broker.socket(5)).connect("long", clean=False, expiry=100)).session_present
    away = await broker.durable("away", 5)
    assert await texts(away) == [("news", b"long")]
    await writer.subscribe("kept/#")
    assert await texts(writer) == [("kept/long", b"long")]


async def texts(client: Client) -> list[tuple[str, bytes]]:
    """Topic and payload of what waited for the client; each has 100 seconds, less what has passed."""
    found = []
    message = await client.message()
    assert 90 <= message.properties[Property.MESSAGE_EXPIRY] <= 100
    found.append((message.topic, message.payload))
    await client.quiet()
    return found


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_that_is_set(url: str, step: float) -> None:
    clock = WallClock()
    async with running(url, time=clock.time()) as broker:
        writer = await broker.client("first")
        await writer.publish("before", b"")
        clock.error = step
        await everything_ends_in_its_time(broker)


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_that_is_set_while_things_wait(step: float) -> None:
    clock = WallClock()
    async with running(time=clock.time()) as broker:
        watcher = await broker.client("watcher")
        await watcher.subscribe("will")
        will = Will("will", b"gone", properties={Property.WILL_DELAY: 1})
        await broker.lose(await broker.durable("dies", 5, will=will), "dies")
        await broker.lose(await broker.client("short", 5, clean=False, expiry=1), "short")
        clock.error = step
        assert (await watcher.message()).payload == b"gone"
        await until(lambda: not broker.server.sessions.named("short"))
        assert len(broker.server.sessions) == 2


async def test_a_message_says_when_it_came(url: str) -> None:
    """By the clock as it was then, also after a time in a wrong year; but times never go back within a conversation."""
    clock = WallClock(YEARS)
    async with running(url, time=clock.time()) as broker:
        writer = await broker.client("w")
        await writer.publish("a", b"")
        clock.error = 0.0
        for topic in ("a", "b"):
            await writer.publish(topic, b"")
        storage = broker.server.storage
        ahead = time.time() * 1000 + YEARS * 1000
        assert [abs(m.time - ahead) < 60_000 for m in await storage.read_conversation("a")] == [True, True]
        (message,) = await storage.read_conversation("b")
        assert abs(message.time - time.time() * 1000) < 60_000


@pytest.mark.parametrize("error", [-YEARS, YEARS])
async def test_one_start_in_a_wrong_year(tmp_path: Path, error: float) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    clock = WallClock(error)
    async with running(url, time=clock.time()) as broker:
        once = await broker.durable("once", 5)
        await once.subscribe("a", options=1)
        await broker.lose(once, "once")
        await (await broker.client("w", 5)).publish("a", b"x", properties={Property.MESSAGE_EXPIRY: 2})
    async with running(url) as broker:
        await everything_ends_in_its_time(broker)
        await broker.lose(await broker.client("short", 5, clean=False, expiry=1), "short")
        await until(lambda: not broker.server.sessions.named("short"))
        await (await broker.durable("once", 5)).quiet()


async def test_sessions_of_a_start_in_a_wrong_year(tmp_path: Path) -> None:
    """No message tells what year it was."""
    url = f"sqlite:///{tmp_path}/broker.db"
    clock = WallClock(YEARS)
    async with running(url, time=clock.time()) as broker:
        will = Will("will", b"gone", properties={Property.WILL_DELAY: 2})
        await broker.lose(await broker.durable("dies", 5, will=will), "dies")
        await broker.lose(await broker.client("short", 5, clean=False, expiry=2), "short")
    async with running(url) as broker:
        watcher = await broker.client("watcher")
        await watcher.subscribe("will")
        assert (await watcher.message()).payload == b"gone"
        await until(lambda: not broker.server.sessions.named("short"))
        await until(lambda: broker.server.pipeline.pending == 0)
        await broker.server.api.commit([], 5.0)
        assert await broker.server.storage.device(DeviceKey("c/short", "short")) is None


FAKETIME = next((str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), "")


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
async def test_a_process_whose_machine_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole broker, whatever in it reads a clock."""
    setting = tmp_path / "clock"

    def set_clock(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, setting)

    set_clock("+0")
    monkeypatch.setenv("LD_PRELOAD", FAKETIME)
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(setting))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    broker = BrokerProcess(
        tmp_path, f"sqlite:///{tmp_path}/broker.db", plugins={"tests.support.laws_auth.NameIsPassword": None}
    )
    try:
        await asyncio.to_thread(broker.start)
        address = ("127.0.0.1", broker.port)
        name: dict[str, Any] = {"username": "ann", "password": b"ann"}
        clients = [await Client.open(address, 5) for _ in range(4)]
        watcher, writer, away, dies = clients
        await watcher.connect("watcher", **name)
        await watcher.subscribe("will")
        await writer.connect("writer", **name)
        await writer.publish("before", b"")
        set_clock("-1h")
        await away.connect("away", clean=False, expiry=300, **name)
        await away.subscribe("news", options=1)
        await away.leave()
        await writer.publish("news", b"short", properties={Property.MESSAGE_EXPIRY: 1})
        await writer.publish("news", b"long", properties={Property.MESSAGE_EXPIRY: 100})
        will = Will("will", b"gone", properties={Property.WILL_DELAY: 1})
        await dies.connect("dies", clean=False, expiry=300, will=will, **name)
        await dies.drop()
        assert (await watcher.message()).payload == b"gone"
        again = await Client.open(address, 5)
        await again.connect("away", clean=False, expiry=300, **name)
        assert await texts(again) == [("news", b"long")]
        for client in (*clients, again):
            await client.drop()
    finally:
        broker.kill()
