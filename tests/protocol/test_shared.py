"""Shared subscriptions (4.8.2): each message to one member, none lost when members come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.access import RECEIVE, SessionInfo, Verdict
from broker.delivery import shared_machine
from broker.packets.model import PubAck, PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Property
from broker.publication import Outgoing
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

SHARE = "$share/g/t/#"


async def members(broker: Broker, count: int, version: int, options: int = 1) -> list[Client]:
    made = []
    for number in range(count):
        client = await broker.durable(f"m{number}", version)
        assert await client.subscribe(SHARE, options=options) == [options]
        made.append(client)
    return made


async def collect(clients: list[Client], count: int) -> list[list[bytes]]:
    """What each client gets until they have ``count`` messages together."""
    got: list[list[bytes]] = [[] for _ in clients]
    done = asyncio.Event()

    async def read(index: int) -> None:
        while True:
            got[index].append((await clients[index].message()).payload)
            if sum(map(len, got)) >= count:
                done.set()

    tasks = [asyncio.create_task(read(index)) for index in range(len(clients))]
    try:
        async with asyncio.timeout(30):
            await done.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return got


async def publish(sender: Client, numbers: range, qos: int = 1) -> None:
    for number in numbers:
        await sender.publish(f"t/{number % 3}", str(number).encode(), qos)


def flat(got: list[list[bytes]]) -> list[int]:
    return sorted(int(payload) for one in got for payload in one)


async def test_each_message_goes_to_one_member(stored: Broker, version: int) -> None:
    clients, sender = await members(stored, 3, version), await stored.client("sender")
    await publish(sender, range(60))
    got = await collect(clients, 60)
    assert flat(got) == list(range(60))
    assert all(len(one) >= 10 for one in got)
    for one in got:
        assert one == sorted(one, key=int)
    for client in clients:
        await client.quiet()


async def test_an_ordinary_subscription_beside_it_gets_everything(stored: Broker, version: int) -> None:
    clients, sender = await members(stored, 2, version), await stored.client("sender")
    plain = await stored.durable("plain", version)
    await plain.subscribe("t/#", options=1)
    await publish(sender, range(10))
    assert flat(await collect(clients, 10)) == list(range(10))
    assert [int(m.payload) for m in await plain.messages(10)] == list(range(10))


async def test_groups_are_independent(stored: Broker, version: int) -> None:
    one, two = await stored.durable("one", version), await stored.durable("two", version)
    await one.subscribe("$share/a/t/#", options=1)
    await two.subscribe("$share/b/t/#", options=1)
    sender = await stored.client("sender")
    await publish(sender, range(5))
    for client in (one, two):
        assert [int(m.payload) for m in await client.messages(5)] == list(range(5))


async def test_what_a_member_did_not_acknowledge_goes_to_another(stored: Broker, version: int) -> None:
    """[MQTT-4.8.2-5]"""
    (one, two), sender = await members(stored, 2, version), await stored.client("sender")
    await publish(sender, range(10))
    held = [await one.message(finish=False) for _ in range(5)]
    one.send(PubAck(held[0].packet_id))
    await one.ping()
    first = [await two.message() for _ in range(5)]
    await stored.lose(one, "m0")
    rest = [await two.message() for _ in range(4)]
    assert sorted(int(m.payload) for m in [held[0], *first, *rest]) == list(range(10))
    one = await stored.durable("m0", version)
    await one.quiet()
    await two.quiet()


async def test_work_waits_while_nobody_is_there(stored: Broker, version: int) -> None:
    clients, sender = await members(stored, 2, version), await stored.client("sender")
    for number, client in enumerate(clients):
        await stored.lose(client, f"m{number}")
    await publish(sender, range(20))
    one = await stored.durable("m1", version)
    assert [int(m.payload) for m in await one.messages(20)] == list(range(20))


async def test_qos_2_stays_with_its_member(stored: Broker, version: int) -> None:
    """[MQTT-4.8.2-4]"""
    (one, two), sender = await members(stored, 2, version, options=2), await stored.client("sender")
    await publish(sender, range(4), qos=2)
    held = [await one.message(finish=False) for _ in range(2)]
    first = [await two.message() for _ in range(2)]
    one.send(PubRec(held[0].packet_id))
    await one.expect(PubRel)
    await stored.lose(one, "m0")
    await two.quiet()
    one = await stored.durable("m0", version)
    assert (await one.expect(PubRel)).packet_id == held[0].packet_id
    one.send(PubComp(held[0].packet_id))
    again = await one.message()
    assert (again.packet_id, again.dup, again.payload) == (held[1].packet_id, True, held[1].payload)
    assert sorted(int(m.payload) for m in [*held, *first]) == list(range(4))
    await one.quiet()


async def test_the_last_to_unsubscribe_ends_the_group(stored: Broker, version: int) -> None:
    clients, sender = await members(stored, 2, version), await stored.client("sender")
    for client in clients:
        await client.unsubscribe(SHARE)
    await publish(sender, range(3))
    assert len(stored.server.shared_groups) == 0
    assert stored.server.trie.count == 0
    await clients[0].subscribe(SHARE, options=1)
    await publish(sender, range(3, 4))
    assert (await clients[0].message()).payload == b"3"


async def test_no_retained_messages_for_a_group(stored: Broker, version: int) -> None:
    sender = await stored.client("sender")
    await sender.publish("t/1", b"x", 1, retain=True)
    (one,) = await members(stored, 1, version)
    await one.quiet()


async def test_a_clean_member_takes_part(stored: Broker, version: int) -> None:
    clean, sender = await stored.client("clean", version), await stored.client("sender")
    await clean.subscribe(SHARE, options=1)
    await publish(sender, range(4))
    held = [await clean.message(finish=False) for _ in range(4)]
    assert [int(m.payload) for m in held] == list(range(4))
    await stored.lose(clean, "clean")
    (one,) = await members(stored, 1, version)
    assert [int(m.payload) for m in await one.messages(4)] == list(range(4))


async def test_v5_a_shared_message_carries_its_identifier_also_when_sent_again(stored: Broker) -> None:
    one, sender = await stored.durable("one", 5), await stored.client("sender")
    await one.subscribe(SHARE, options=2, properties={Property.SUBSCRIPTION_IDENTIFIER: 9})
    await publish(sender, range(1), qos=2)
    assert (await one.message(finish=False)).properties[Property.SUBSCRIPTION_IDENTIFIER] == [9]
    await stored.lose(one, "one")
    one = await stored.durable("one", 5)
    again = await one.message()
    assert again.dup
    assert again.properties[Property.SUBSCRIPTION_IDENTIFIER] == [9]


@pytest.mark.parametrize("slow", [False, True])
async def test_a_slow_member_gets_less(version: int, slow: bool) -> None:
    """Load is spread by free window: a member that acknowledges nothing keeps no more than its window."""
    async with running(mqtt={"inflight_window": 4}) as broker:
        (one, two), sender = await members(broker, 2, version), await broker.client("sender")
        sender.send(*(Publish("t/x", str(n).encode(), 1, packet_id=n + 1) for n in range(40)))
        if slow:
            held = [await one.message(finish=False) for _ in range(4)]
            rest = [await two.message() for _ in range(36)]
            assert sorted(int(m.payload) for m in held + rest) == list(range(40))
        else:
            assert flat(await collect([one, two], 40)) == list(range(40))


async def test_members_that_acknowledge_nothing_do_not_hold_up_the_others(version: int) -> None:
    """However many of them there are."""
    async with running(mqtt={"inflight_window": 1}) as broker:
        clients, sender = await members(broker, 10, version), await broker.client("sender")
        sender.send(*(Publish("t/x", str(n).encode(), 1, packet_id=n + 1) for n in range(30)))
        held = [await client.message(finish=False) for client in clients[:-1]]
        rest = [await clients[-1].message() for _ in range(21)]
        assert sorted(int(m.payload) for m in held + rest) == list(range(30))


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_v5_what_is_too_large_for_a_member_goes_to_another(stored: Broker, qos: int) -> None:
    """[MQTT-3.1.2-25]: and where only an absent one takes it, the group goes on without it, and it is kept for that one."""
    small, large, sender = await small_and_large(stored, qos)
    for number in range(20):
        await sender.publish("t", str(number).encode() + b" " * 200, qos)
    assert [int((await large.message()).payload) for _ in range(20)] == list(range(20))
    await stored.lose(large, "large")
    for number in range(3):
        await sender.publish("t", str(number).encode() + b" " * 200, qos)
        await sender.publish("t", b"small enough", qos)
        assert (await small.message()).payload == b"small enough"
    large = await stored.durable("large", 5)
    assert [int((await large.message()).payload) for _ in range(3)] == list(range(3))
    await large.quiet()
    await small.quiet()
    (group,) = stored.server.shared_groups
    await until(lambda: group.machine.offset == group.machine.cursor)


async def small_and_large(broker: Broker, qos: int = 1) -> tuple[Client, Client, Client]:
    """Two members, of which one takes no large messages, and a sender."""
    small = await broker.durable("small", 5, properties={Property.MAXIMUM_PACKET_SIZE: 100})
    large = await broker.durable("large", 5)
    for member in (small, large):
        await member.subscribe("$share/g/t/#", options=qos)
    return small, large, await broker.client("sender")


async def test_v5_what_is_kept_for_an_absent_member_survives_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    async with running(url) as broker:
        small, large, sender = await small_and_large(broker)
        await large.leave()
        await sender.publish("t", b"x" * 200)
        await sender.publish("t", b"small enough")
        assert (await small.message()).payload == b"small enough"
        await small.ping()
    async with running(url) as broker:
        small = await broker.durable("small", 5, properties={Property.MAXIMUM_PACKET_SIZE: 100})
        await small.quiet()
        large = await broker.durable("large", 5)
        assert (await large.message()).payload == b"x" * 200
        await small.quiet()


@pytest.mark.parametrize("ended", [False, True], ids=["unsubscribed", "ended"])
async def test_v5_what_is_kept_for_a_member_is_given_up_with_it(stored: Broker, ended: bool) -> None:
    small, large, sender = await small_and_large(stored)
    await stored.lose(large, "large")
    await sender.publish("t", b"x" * 200)
    await small.quiet()
    (group,) = stored.server.shared_groups
    assert (group.machine.offset, group.machine.cursor) == (0, 1)
    if ended:
        (session,) = stored.server.sessions.named("large")
        stored.server.sessions.remove(session)
    else:
        large = await stored.durable("large", 5, properties={Property.MAXIMUM_PACKET_SIZE: 100})
        await large.unsubscribe("$share/g/t/#")
    await until(lambda: group.machine.offset == 1)
    await small.quiet()


async def test_v5_a_group_waits_with_very_much_that_only_an_absent_member_could_take(
    stored: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to drop any of it, or to remember without end."""
    monkeypatch.setattr(shared_machine, "MOST_KEPT", 3)
    small, large, sender = await small_and_large(stored)
    await stored.lose(large, "large")
    for number in range(5):
        await sender.publish("t", str(number).encode() + b" " * 200)
    await sender.publish("t", b"small enough")
    await small.quiet()
    (group,) = stored.server.shared_groups
    assert group.machine.cursor == 3
    large = await stored.durable("large", 5)
    got = await collect([small, large], 6)
    assert sorted(payload.strip() for one in got for payload in one) == [b"0", b"1", b"2", b"3", b"4", b"small enough"]


LIVE_ONLY = {
    "persistence": {
        "url": "memory://",
        "policies": [{"filter": "store/#", "mode": "store"}, {"filter": "none/#", "mode": "none"}],
    }
}


@pytest.mark.parametrize("topic", ["store/1", "none/1", "$SYS/test"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
async def test_live_only_messages_go_to_one_connected_member(version: int, topic: str, qos: int, durable: bool) -> None:
    async with running(plugins=LIVE_ONLY) as broker:
        sender = await broker.client("sender")
        clients = [await (broker.durable if durable else broker.client)(f"m{number}", version) for number in range(2)]
        for client in clients:
            await client.subscribe(f"$share/g/{topic}", options=qos)
        for number in range(6):
            if topic.startswith("$SYS"):
                broker.server.publish_path.publish_transient(Outgoing(topic, "", "", qos, b"%d" % number))
            else:
                await sender.publish(topic, b"%d" % number, qos)
        got = await collect(clients, 6)
        assert flat(got) == list(range(6))
        assert [len(one) for one in got] == [3, 3]
        for client in clients:
            await client.quiet()


async def test_v5_live_only_messages_that_one_member_cannot_take_go_to_another() -> None:
    async with running(plugins=LIVE_ONLY) as broker:
        small = await broker.client("small", 5, properties={Property.MAXIMUM_PACKET_SIZE: 100})
        large, sender = await broker.client("large", 5), await broker.client("sender")
        for member in (small, large):
            await member.subscribe("$share/g/none/#", options=1)
        for number in range(4):
            await sender.publish("none/1", str(number).encode() + b" " * 200)
        assert [int(m.payload) for m in await large.messages(4)] == list(range(4))
        await small.quiet()


@pytest.mark.parametrize("qos", [0, 1])
async def test_live_only_messages_wait_a_moment_for_a_member_that_has_no_room(qos: int) -> None:
    async with running(plugins=LIVE_ONLY, mqtt={"inflight_window": 1}) as broker:
        member, sender = await broker.client("m"), await broker.client("sender")
        await member.subscribe("$share/g/none/#", options=qos)
        for number in range(5):
            await sender.publish("none/1", b"%d" % number, qos)
        assert [int(m.payload) for m in await member.messages(5)] == list(range(5))


class Denying:
    """A topic plugin: a client called denied may receive nothing."""

    auth_plugins = ()
    unused = False
    name = "denied"

    def __init__(self) -> None:
        self.topic_plugins = [self]

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        return Verdict(action != RECEIVE or info.client_id != self.name, None, "denied by name")


async def test_what_a_member_may_not_receive_any_more_goes_to_another(stored: Broker) -> None:
    """From the next message on, though all have one topic, and the member has said nothing since."""
    members = [await stored.durable(name, 5) for name in ("denied", "permitted")]
    sender = await stored.client("sender", 5)
    rules = Denying()
    rules.name = ""
    stored.server.access.use(rules)
    for member in members:
        await member.subscribe("$share/g/t", options=1)
    await sender.publish("t", b"1", properties={Property.TOPIC_ALIAS: 1})
    await sender.publish("", b"2", properties={Property.TOPIC_ALIAS: 1})
    for member in members:
        await member.message(finish=False)
    rules.name = "denied"
    stored.server.access.rules_changed()
    for number in (b"3", b"4"):
        await sender.publish("", number, properties={Property.TOPIC_ALIAS: 1})
    assert [message.payload for message in await members[1].messages(2)] == [b"3", b"4"]
    await members[0].ping()


async def test_what_a_member_may_not_receive_goes_to_another(stored: Broker) -> None:
    """Also while the member that may has no room: the group waits for it."""
    permitted = await stored.durable("permitted", 5, properties={Property.RECEIVE_MAXIMUM: 2})
    denied, sender = await stored.durable("denied", 5), await stored.client("sender")
    stored.server.access.use(Denying())
    for member in (denied, permitted):
        await member.subscribe("$share/g/t", options=1)
    for number in range(10):
        await sender.publish("t", str(number).encode())
    assert [int((await permitted.message()).payload) for _ in range(10)] == list(range(10))
    await denied.ping()
