"""Clients that connect while storage takes nothing, give up, and come again: what waits is bounded, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import ConnAck, Connect, Packet, Publish, Will
from broker.packets.properties import Property
from broker.sessions.steps import OpenStep
from storage.records import Device, DeviceKey
from tests.protocol.test_keep_alive import Late
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client, Closed

IMPATIENT = {"connect_timeout": 0.05, "storage_timeout": 0.3}
LEAST = 1 << 16
"""The lowest ``limits.pending_bytes``."""


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[Broker]:
    """A broker that lets little wait, and clients not for long."""
    async with running(url, mqtt=IMPATIENT, limits={"pending_bytes": LEAST}) as started:
        yield started


async def refused(
    broker: Broker, client_id: str, version: int, *, clean: bool = False, expiry: int = 3600, will: Will | None = None
) -> None:
    """A client tries to connect until it is told that it cannot. Nothing is told to one that tries again meanwhile, nor where a
    busy machine has the broker wait in vain for the CONNECT."""
    told: list[Packet] = []
    while not told:
        client = await broker.socket(version)
        client.send(Connect(client_id, version, clean, will=will, properties={17: expiry} if version == 5 else {}))
        told = await client.closed()
    (answer,) = told
    assert isinstance(answer, ConnAck)
    assert answer.reason == (ReasonCode.SERVER_UNAVAILABLE if version == 5 else 3)


async def let_in(broker: Broker, client_id: str, version: int = 4, **connect: Any) -> Client:
    """A client, once it is let in: the broker may have no time at first, on a machine that is busy."""
    while True:
        client = await broker.socket(version)
        with contextlib.suppress(Closed):
            if not (await client.connect(client_id, **connect)).reason:
                return client


@pytest.mark.parametrize("each", ["phone", "phone-{}"], ids=["one device", "many devices"])
async def test_attempts_to_connect_do_not_pile_up(
    impatient: Broker, version: int, each: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the wills that come with them. Once storage is back, anybody is let in again."""
    publisher = await let_in(impatient, "publisher")
    waiting = []
    async with impatient.held() as commits:
        publisher.send(Publish("t", b"", 1, packet_id=1))
        await commits.arrived()
        for turn in range(5):
            names = [each.format(20 * turn + number) for number in range(20)]
            will = Will("will", b"x" * 10_000, 1)
            await asyncio.gather(*(refused(impatient, name, version, will=will) for name in names))
            waiting.append(impatient.server.pipeline.pending)
    assert max(waiting) < 90  # of 100 attempts
    assert 0 < 10 * caplog.text.count("clients are refused: ") < impatient.server.counters.clients_refused
    await let_in(impatient, "phone", version, clean=False)
    assert await impatient.server.storage.read_conversation("will") == []


async def test_a_clean_session_that_waits_behind_what_storage_does_not_take_is_refused_in_time(
    impatient: Broker, version: int
) -> None:
    """Storage is to keep nothing of it; but its place is behind a message that may be due to it."""
    publisher = await let_in(impatient, "publisher")
    async with impatient.held() as commits:
        publisher.send(Publish("t", b"", 1, packet_id=1))
        await commits.arrived()
        await refused(impatient, "", version, clean=True, expiry=0)
    await let_in(impatient, "phone", version)


async def test_who_has_waited_for_its_turn_to_connect_is_refused_in_time_too(url: str, version: int) -> None:
    """Longer than ``connect_timeout``, which is for what comes behind that."""
    async with running(url, mqtt=IMPATIENT, limits={"connect_pace": 2}) as broker:
        publisher = await let_in(broker, "publisher")
        async with broker.held() as commits:
            publisher.send(Publish("t", b"", 1, packet_id=1))
            await commits.arrived()
            await asyncio.gather(*(refused(broker, f"phone-{number}", version) for number in range(2)))


async def test_its_turn_to_connect_is_when_the_time_for_its_session_begins(version: int) -> None:
    """It waited for longer than storage may take, and storage takes longer than ``connect_timeout``: it is let in."""
    async with running(mqtt={"connect_timeout": 5, "storage_timeout": 10}, limits={"connect_pace": 0.001}) as broker:
        server = broker.server
        clock = server.clock
        publisher = await broker.client("publisher")
        await publisher.publish("t")
        await broker.client("first", version)
        async with broker.held() as commits:
            publisher.send(Publish("t", b"", 1, packet_id=1))
            await commits.arrived()
            phone = await broker.socket(version)
            phone.send(Connect("phone", version, True))
            await until(lambda: server.counters.limit_connect_pace)
            came = clock.latest
            await until(lambda: clock.latest is not came)  # else it could have come just before the clock says so
            loop = Late(clock)
            await loop.pass_by(20)
            assert not server.sessions.named("phone")
            server.gate._turns._next()
            await until(lambda: server.sessions.named("phone"))
            await loop.pass_by(6)
        assert (await phone.expect(ConnAck)).reason == 0


async def test_who_left_before_its_turn_to_connect_has_no_session(version: int) -> None:
    async with running(limits={"connect_pace": 2}) as broker:
        counters, sessions = broker.server.counters, broker.server.sessions
        await (await broker.client("publisher")).publish("t")
        await broker.client("first", version)
        leaving, received = await broker.socket(version), counters.messages_received
        leaving.send(Connect("leaving", version, True))
        await until(lambda: counters.messages_received > received)
        await leaving.drop()
        await until(lambda: len(broker.server.connections) == 2)
        await broker.client("behind", version)
        await until(lambda: not sessions.named("leaving"))


async def test_who_is_refused_while_its_session_is_read_holds_up_no_retention(url: str, version: int) -> None:
    """Nothing is removed while a device begins; one that was refused does not begin."""
    async with running(url, mqtt=IMPATIENT, plugins={"sync": {"start": "earliest"}}) as broker:
        storage, retention_lock = broker.server.storage, broker.server.retention_lock
        device, answers = storage.device, asyncio.Event()

        async def late(key: DeviceKey) -> Device | None:
            await answers.wait()
            return await device(key)

        storage.device = late  # type: ignore[method-assign]
        await refused(broker, "phone", version)
        assert retention_lock.beginnings == 0
        answers.set()
        await let_in(broker, "phone", version, clean=False)
        assert retention_lock.beginnings == 0


@pytest.mark.inside
async def test_an_opening_that_fails_is_counted_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an error of ours would keep everybody out in the end."""
    async with running(mqtt=IMPATIENT, limits={"pending_bytes": LEAST}, errors=True) as broker:
        with monkeypatch.context() as broken:
            broken.setattr(OpenStep, "_apply", lambda step: 1 / 0)
            await asyncio.gather(*(refused(broker, f"phone-{number}", 5) for number in range(20)))
        assert not broker.server.sessions.full
        await let_in(broker, "phone", 5)


async def test_a_connect_that_was_not_accepted_has_no_will(stored: Broker, version: int) -> None:
    """[MQTT-3.1.2-8]: one that another took over before its CONNACK."""
    publisher, watcher = await stored.client("publisher"), await stored.client("watcher")
    await watcher.subscribe("will")
    async with stored.held() as commits:
        publisher.send(Publish("t", b"", 1, packet_id=1))
        await commits.arrived()
        for name in (b"first", b"second"):
            client = await stored.socket(version)
            client.send(Connect("phone", version, True, will=Will("will", name)))
        third = await stored.socket(version)
        third.send(Connect("phone", version, True, will=Will("will", b"third")))
        assert await client.closed() == []
    assert (await third.expect(ConnAck)).reason == 0
    await third.drop()
    assert (await watcher.message()).payload == b"third"
    await watcher.quiet()


async def test_a_session_outlives_attempts_that_were_to_end_it_with_their_connection(impatient: Broker) -> None:
    """And so does its delayed will: a connection of no more than some attempts is none."""
    publisher, watcher = await let_in(impatient, "publisher"), await let_in(impatient, "watcher")
    await watcher.subscribe("will")
    will = Will("will", b"delayed", properties={Property.WILL_DELAY: 600})
    client = await let_in(impatient, "phone", 5, clean=False, expiry=3600, will=will)
    await client.subscribe("t", options=1)
    await impatient.lose(client, "phone")
    async with impatient.held() as commits:
        publisher.send(Publish("t", b"kept", 1, packet_id=1))
        await commits.arrived()
        for _ in range(2):
            await refused(impatient, "phone", 5, expiry=0, will=Will("will", b"of an attempt"))
    (session,) = impatient.server.sessions.named("phone")
    assert (session.expiry, session.will is not None, session.will_at > 0) == (3600, True, True)
    await watcher.quiet()
    later = await let_in(impatient, "phone", 5, clean=False, expiry=0)
    assert (await later.message()).payload == b"kept"
