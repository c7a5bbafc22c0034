"""Very many devices of one user: a commit costs what is due, and whoever is due nothing moves on all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.access.password_file import generated
from broker.delivery.outbound import Outbound
from broker.packets.model import Publish, SubAck, Subscribe
from storage.records import Append, Message
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

DEVICES = 40


@pytest.fixture
async def fleet(url: str, tmp_path: Path) -> AsyncIterator[tuple[Broker, list[Client]]]:
    """A broker, and the connected devices of one user, each subscribed to a topic of its own and to `all`."""
    password, kept = generated()
    (tmp_path / "secret").write_text(password)
    (tmp_path / "passwords").write_text(f"fleet:{kept}\n")
    plugins = {"passwords": {"file": str(tmp_path / "passwords"), "anonymous": True}}
    async with running(url, plugins=plugins) as broker:
        devices = [await enter(broker, number, password) for number in range(DEVICES)]
        for number, device in enumerate(devices):
            await device.subscribe(f"own/{number}", "all", options=1)
        yield broker, devices


async def enter(broker: Broker, number: int, password: str) -> Client:
    return await broker.durable(f"d{number}", username="fleet", password=password.encode())


@pytest.mark.inside
async def test_a_commit_wakes_only_the_devices_that_are_due_something(
    fleet: tuple[Broker, list[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, devices = fleet
    sender = await broker.client("sender")
    woken: list[str] = []
    pump = Outbound.pump

    def counted(outbound: Outbound) -> None:
        woken.append(outbound.session.key.client_id)
        pump(outbound)

    monkeypatch.setattr(Outbound, "pump", counted)
    for number in range(DEVICES):
        await sender.publish(f"own/{number}", b"x")
        assert (await devices[number].message()).payload == b"x"
        await devices[number].ping()
    assert set(woken) == {f"d{number}" for number in range(DEVICES)}
    assert len(woken) <= 3 * DEVICES  # the message, its acknowledgement, and what else a socket may do
    await sender.publish("all", b"y")
    assert {(await device.message()).payload for device in devices} == {b"y"}


async def test_devices_that_are_due_nothing_move_on_and_hold_nothing(fleet: tuple[Broker, list[Client]]) -> None:
    """Their offsets are what retention asks for; a message that one device has not taken is not kept in memory for all."""
    broker, devices = fleet
    sender = await broker.client("sender")
    sessions = [broker.server.sessions.named(f"d{number}")[0] for number in range(DEVICES)]
    for _ in range(600):
        await sender.publish("own/0", b"x" * 100)
    for _ in range(600):
        await devices[0].message()
    await until(lambda: {session.offset for session in sessions} == {600})
    await broker.server.api.save_offsets(5.0)
    assert await broker.server.api.lowest_offset("u/fleet") == 600
    await sender.publish("own/1", b"not acknowledged")
    await devices[1].message(finish=False)
    await sender.publish("own/0", b"x")
    await devices[0].message()
    await until(lambda: sorted(session.offset for session in sessions) == [600] + [602] * (DEVICES - 1))
    assert (broker.server.delivery._waiting, broker.server.delivery._waiting_bytes) == ({}, 0)


async def test_a_device_that_was_due_nothing_goes_on_where_it_stood(fleet: tuple[Broker, list[Client]], tmp_path: Path) -> None:
    """What it missed while it was away, and nothing of what passed it by while it was there."""
    broker, devices = fleet
    sender = await broker.client("sender")
    for _ in range(5):
        await sender.publish("own/0", b"for another")
        await devices[0].message()
    await broker.lose(devices[1], "d1")
    (session,) = broker.server.sessions.named("d1")
    assert session.offset == 5
    await sender.publish("own/0", b"for another")
    await sender.publish("own/1", b"missed")
    device = await enter(broker, 1, (tmp_path / "secret").read_text())
    assert (await device.message()).payload == b"missed"
    await device.quiet()
    await until(lambda: session.offset == 7)


async def test_a_retained_message_for_one_device_is_not_anothers_that_was_away(
    fleet: tuple[Broker, list[Client]], tmp_path: Path
) -> None:
    """Both have the filter, and one comes across the other's entry when it reads what it missed."""
    broker, devices = fleet
    sender = await broker.client("sender")
    await sender.publish("kept", b"retained", retain=True)
    await devices[1].subscribe("kept", options=1)
    assert (await devices[1].message()).retain
    await broker.lose(devices[1], "d1")
    await devices[2].subscribe("kept", options=1)
    assert (await devices[2].message()).retain
    await sender.publish("kept", b"new")
    device = await enter(broker, 1, (tmp_path / "secret").read_text())
    message = await device.message()
    assert (message.payload, message.retain) == (b"new", False)
    await device.quiet()


@pytest.mark.inside
async def test_what_storage_added_to_an_inbox_by_itself_is_read_before_what_follows(
    fleet: tuple[Broker, list[Client]],
) -> None:
    """As MongoDB's does with messages that came late: no group brought the entry, and nobody was woken for it."""
    broker, devices = fleet
    sender = await broker.client("sender")
    id_, time = broker.server.ids.take()
    message = Message(id_, "all", "c/other", "other", time, 1, b"late")
    await broker.server.storage.commit([Append(message, recipients=("u/fleet",))])
    await sender.publish("all", b"next")
    for device in devices:
        assert [(await device.message()).payload for _ in range(2)] == [b"late", b"next"]


async def test_a_retained_message_for_one_device_stands_between_those_for_all(fleet: tuple[Broker, list[Client]]) -> None:
    """In one group with messages to the same inbox before and after it: each device gets what is its own, in order."""
    broker, devices = fleet
    sender = await broker.client("sender")
    await sender.publish("kept", b"retained", retain=True)
    async with broker.held() as commits:
        sender.send(Publish("other", b"", 1, packet_id=1))  # while this is committed, the next group gathers
        await commits.arrived()
        sender.send(Publish("all", b"before", 1, packet_id=2))
        await until(lambda: broker.server.pipeline.pending == 1)
        devices[3].send(Subscribe(9, [("kept", 1)]))
        await until(lambda: broker.server.pipeline.pending == 2)
        sender.send(Publish("all", b"after", 1, packet_id=3))
        await until(lambda: broker.server.pipeline.pending == 3)
        commits.let(2)
        await devices[3].expect(SubAck)
        assert [(await devices[3].message()).payload for _ in range(3)] == [b"before", b"retained", b"after"]
        for device in (*devices[:3], *devices[4:]):
            assert [(await device.message()).payload for _ in range(2)] == [b"before", b"after"]
