"""MQTT 5's additions under kills: named messages are stored once, and a shared group's work is neither lost nor done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from broker.packets.model import Packet, PubAck, PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Properties, Property
from tests.support import laws_check as law
from tests.support.laws_process import BrokerProcess, broker_process
from tests.support.laws_wire import dropping, enter
from tests.support.until import until
from tests.support.wire import Client, divided

IMPLEMENTATION_SPECIFIC = 0x83
WORK = "$share/crew/jobs/#"


def named(name: str) -> Properties:
    return {Property.USER_PROPERTY: [("message-id", name)]}


async def publish_named(client: Client, name: str, payload: bytes, qos: int = 1) -> tuple[int, dict[str, str]]:
    """The reason code and the user properties of the PUBACK or PUBREC."""
    packet_id = client.new_id()
    client.send(Publish("named/1", payload, qos, False, False, packet_id, named(name)))
    ack: Packet = await client.expect(PubAck) if qos == 1 else await client.expect(PubRec)
    assert isinstance(ack, PubAck | PubRec)
    if qos == 2 and ack.reason < 0x80:
        client.send(PubRel(packet_id))
        await client.expect(PubComp)
    return ack.reason, dict(ack.properties.get(Property.USER_PROPERTY, ()))


# --- named messages --------------------------------------------------------------------------------------------------


async def publish_and_resend(broker: BrokerProcess, qos: int) -> None:
    reader = await enter(broker, "reader", "reader-1")
    await reader.subscribe("named/#", options=1)
    first = await enter(broker, "writer", "writer-1", 5)
    await publish_named(first, "before", b"before", qos)
    _, answer = await publish_named(first, "order-7", b"one coffee", qos)
    assert answer["seq"] == "2"
    first.send(Publish("named/1", b"no ack", qos, False, False, first.new_id(), named("order-8")))  # and nobody waits
    await first.drained()
    await asyncio.to_thread(broker.restart)
    second = await enter(broker, "writer", "writer-2", 5)  # another device of the user, with no memory of the first
    async with dropping(first, second, reader):
        reason, again = await publish_named(second, "order-7", b"one coffee", qos)
        assert (reason, again["seq"], again["message-id"]) == (0, "2", answer["message-id"])
        assert again["duplicate"] == "true"
        reason, _ = await publish_named(second, "order-7", b"two coffees", qos)
        assert reason == IMPLEMENTATION_SPECIFIC
        reason, unsure = await publish_named(second, "order-8", b"no ack", qos)
        assert (reason, unsure["seq"]) == (0, "3")
        other = await enter(broker, "other", "other-1", 5)
        async with dropping(other):
            _, theirs = await publish_named(other, "order-7", b"one coffee", qos)
        assert theirs["seq"] == "4"  # names are a user's own


def check_named(folder: Path, url: str, qos: int) -> None:
    with broker_process(folder, url) as broker:
        asyncio.run(publish_and_resend(broker, qos))
        broker.stop()
    stored = law.read_all(url)
    law.timelines_are_whole(stored)
    kept = [(message.user, message.payload) for message in stored.conversations["named/1"]]
    mine = [("u/writer", payload) for payload in (b"before", b"one coffee", b"no ack")]
    assert kept == [*mine, ("u/other", b"one coffee")]
    law.inboxes_hold_what_is_due(stored, {"u/reader": {"named/#"}})


def test_a_named_message_is_stored_once_over_a_crash(tmp_path: Path, url: str) -> None:
    check_named(tmp_path, url, 1)


def test_a_named_message_of_qos_2_is_stored_once_over_a_crash(tmp_path: Path, url: str) -> None:
    check_named(tmp_path, url, 2)


# --- shared groups ---------------------------------------------------------------------------------------------------

JOBS = 60


async def join(broker: BrokerProcess, number: int, version: int) -> Client:
    """A member that comes back to its session, or begins one."""
    return await enter(broker, "crew", f"crew-{number}", version)


async def work(client: Client, done: list[str]) -> None:
    """Do whatever comes, at any QoS, until cancelled."""
    while True:
        done.append((await client.message()).payload.decode())


async def all_done(clients: list[Client], expected: list[str]) -> None:
    """The members between them do every job, and none twice."""
    done: list[str] = []
    tasks = [asyncio.create_task(work(client, done)) for client in clients]
    try:
        await until(lambda: len(done) >= len(expected), lambda: f"{len(done)} of {len(expected)} jobs done: {done}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        await client.quiet()
    assert Counter(done) == Counter(expected)


async def publish_jobs(broker: BrokerProcess, first: int, count: int) -> list[str]:
    publisher = await enter(broker, "boss", "boss-1", clean=True)
    async with dropping(publisher):
        for number in range(first, first + count):
            await publisher.publish(f"jobs/{number % 3}", f"job:{number}".encode(), 1 + number % 2)
    return [f"job:{number}" for number in range(first, first + count)]


async def nobody_is_there(broker: BrokerProcess) -> None:
    crew = [await join(broker, number, 4 + number % 2) for number in range(3)]
    for member in crew:
        assert await member.subscribe(WORK, options=2) == [2]
        await member.drop()
    jobs = await publish_jobs(broker, 0, JOBS)
    await asyncio.to_thread(broker.restart)
    jobs += await publish_jobs(broker, JOBS, JOBS)
    crew = [await join(broker, number, 4 + number % 2) for number in range(3)]
    async with dropping(*crew):
        await all_done(crew, jobs)


def test_work_waits_for_a_group_that_is_away_over_a_crash(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url) as broker:
        asyncio.run(nobody_is_there(broker))
        broker.stop()


async def a_member_dies(broker: BrokerProcess) -> None:
    dying, other = await join(broker, 1, 5), await join(broker, 2, 4)
    async with dropping(dying, other):
        await dying.subscribe(WORK, options=1)
        jobs = await publish_jobs(broker, 0, JOBS)
        given = [await dying.expect(Publish) for _ in range(JOBS)]
        for message in given[: JOBS // 3]:
            dying.send(PubAck(message.packet_id))
        await dying.ping()
        await other.subscribe(WORK, options=1)
        await dying.drop()
        left = jobs[JOBS // 3 :]
        half = [(await other.expect(Publish)) for _ in range(len(left))]
        assert [message.payload.decode() for message in half] == left
        for message in half[: len(left) // 2]:
            other.send(PubAck(message.packet_id))
        await other.ping()
        await asyncio.to_thread(broker.restart)  # within the second in which offsets may be late: some come again
        back = await join(broker, 1, 5)
        async with dropping(back):
            got: set[str] = set()
            missing = set(left[len(left) // 2 :])
            while not missing <= got:
                got.add((await back.message()).payload.decode())
            assert got <= set(jobs)


def test_a_dying_member_hands_its_work_over(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url) as broker:
        asyncio.run(a_member_dies(broker))
        broker.stop()


async def taken_up(member: Client) -> Publish:
    """The message that comes again, behind what is only to be completed."""
    while isinstance(packet := await member.receive(), PubRel):
        member.send(PubComp(packet.packet_id))
    assert isinstance(packet, Publish)
    return packet


async def finish_one_and_begin_another(broker: BrokerProcess) -> None:
    """The group's own state may be a second old when the broker dies; its members' states are not."""
    first, other = await join(broker, 1, 5), await join(broker, 2, 5)
    async with dropping(first, other):
        await first.subscribe(WORK, options=2)
        await other.subscribe(WORK, options=2)
        boss = await enter(broker, "boss", "boss-1", clean=True)
        jobs = [f"job:{number}" for number in range(6)]
        async with dropping(boss):
            for job in jobs:
                await boss.publish("jobs/1", job.encode(), 2)
        given = await divided(
            [first, other], len(jobs)
        )  # not by three each: who waits for its state to be durable is passed over
        done: list[str] = []
        for member, messages in zip((first, other), given, strict=True):
            for message in messages[:-1]:
                member.send(PubRec(message.packet_id))
                member.send(PubComp((await member.expect(PubRel)).packet_id))
                done.append(message.payload.decode())
        await asyncio.to_thread(broker.restart)
        first, other = await join(broker, 1, 5), await join(broker, 2, 5)
        begun = [(member, messages[-1]) for member, messages in zip((first, other), given, strict=True) if messages]
        again = [await taken_up(member) for member, _ in begun]
        assert [(message.packet_id, message.payload) for message in again] == [(m.packet_id, m.payload) for _, m in begun]
        for member, message in zip((member for member, _ in begun), again, strict=True):
            member.send(PubRec(message.packet_id))
            member.send(PubComp((await member.expect(PubRel)).packet_id))
            await member.quiet()
        assert sorted(done + [message.payload.decode() for message in again]) == jobs
        await first.drop()
        await other.drop()


async def finish_one_and_get_one_of_its_own(broker: BrokerProcess) -> None:
    """The member's state is stored for the second message, and has forgotten the first; the group's may not have yet."""
    first, other = await join(broker, 1, 5), await join(broker, 2, 5)
    boss = await enter(broker, "boss", "boss-1", clean=True)
    async with dropping(first, other, boss):
        await first.subscribe("own/1", options=2)
        await first.subscribe(WORK, options=2)
        await boss.publish("jobs/1", b"job", 2)
        assert (await first.message()).payload == b"job"
        await boss.publish("own/1", b"own", 2)
        own = await first.message(finish=False)
        await asyncio.to_thread(broker.restart)
    first, other = await join(broker, 1, 5), await join(broker, 2, 5)
    async with dropping(first, other):
        await other.subscribe(WORK, options=2)
        again = await taken_up(first)
        assert (again.payload, again.packet_id) == (b"own", own.packet_id)
        await first.quiet()
        await other.quiet()


def test_a_group_gives_qos_2_to_nobody_else_after_a_crash(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url) as broker:
        asyncio.run(finish_one_and_get_one_of_its_own(broker))
        broker.stop()


def test_a_group_does_qos_2_once_over_a_crash(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url) as broker:
        asyncio.run(finish_one_and_begin_another(broker))
        broker.stop()
