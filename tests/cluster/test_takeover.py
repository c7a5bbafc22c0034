"""One device, one node: what its client sees when it connects to another one, and when both have it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.packets import ReasonCode
from broker.packets.model import ConnAck, Connect, Disconnect, PingReq, PingResp, PubComp, Publish, PubRec, PubRel, Will
from broker.packets.properties import Property
from broker.pipeline import Operations
from storage.cluster import HELD, Change, Route
from storage.records import Announce, Device, DeviceKey
from tests.support.cluster import Cluster, Node, cluster
from tests.support.until import until
from tests.support.wire import TIMEOUT, Client

PHONE = DeviceKey("c/phone", "phone")


@asynccontextmanager
async def two_nodes(**options: Any) -> AsyncIterator[tuple[Cluster, Node, Node]]:
    async with cluster(2, **options) as made:
        one, other = made.nodes
        yield made, one, other


async def closed_with(client: Client) -> list[int]:
    """The reason codes of the DISCONNECT packets before the broker closed."""
    return [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)]


@asynccontextmanager
async def looked_up(node: Node) -> AsyncIterator[asyncio.Event]:
    """While entered, the node's first look for a device hears of nobody who came after it, and not before the end. An event
    says that it has looked."""
    part = node.storage.cluster
    assert part is not None
    real_device, real_routes = node.storage.device, part.routes_after
    done, may_go_on = asyncio.Event(), asyncio.Event()

    async def device(key: DeviceKey) -> Device | None:
        node.storage.device = real_device  # type: ignore[method-assign]
        found = await real_device(key)
        part.routes_after = routes_after  # type: ignore[method-assign]
        return found

    async def routes_after(after: int, limit: int = 1000) -> list[Route]:
        part.routes_after = real_routes  # type: ignore[method-assign]
        found = await real_routes(after, limit)
        done.set()
        await may_go_on.wait()
        return found

    node.storage.device = device  # type: ignore[method-assign]
    try:
        yield done
    finally:
        may_go_on.set()


async def later(one: Node, other: Node) -> None:
    """The other node opens what it opens from now on behind what this one has opened: storage refuses it else."""
    cluster = other.server.cluster
    assert cluster is not None
    (session,) = one.server.sessions.named("phone")
    await until(lambda: cluster.time() > session.epoch)


async def stored(node: Node, topic: str) -> list[bytes]:
    return [message.payload for message in await node.storage.read_conversation(topic)]


async def test_a_device_that_connects_elsewhere_keeps_its_session_and_loses_its_old_connection() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5)
        assert await old.subscribe("news/#", options=1) == [1]
        new = await other.socket(5)
        ack = await new.connect("phone", clean=False, expiry=3600)
        assert ack.session_present
        assert await closed_with(old) == [ReasonCode.SESSION_TAKEN_OVER]
        assert await new.publish("news/1", b"hello") == 0
        assert (await new.message()).payload == b"hello"


async def test_what_was_acknowledged_a_moment_ago_does_not_come_again() -> None:
    """Its progress is durable before the other node reads it."""
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5)
        await old.subscribe("news", options=1)
        publisher = await one.client("publisher")
        for number in range(5):
            await publisher.publish("news", b"%d" % number)
        assert [message.payload for message in await old.messages(5)] == [b"0", b"1", b"2", b"3", b"4"]
        await old.ping()
        new = await other.durable("phone", 5)
        await new.quiet()


async def test_a_clean_session_is_taken_over_too() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.client("phone", 5, will=Will("gone", b"will", 1, False, {}))
        new = await other.client("phone", 5)
        assert await closed_with(old) == [ReasonCode.SESSION_TAKEN_OVER]
        await until(lambda: stored(one, "gone"))
        await new.ping()
        assert await stored(one, "gone") == [b"will"]


async def test_an_immediate_will_is_published_once_when_the_device_is_taken_over() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        new = await other.durable("phone", 5)
        await closed_with(old)
        await until(lambda: stored(other, "gone"))
        await new.ping()
        assert await stored(other, "gone") == [b"will"]


async def test_a_delayed_will_is_given_up_when_the_session_goes_on_elsewhere() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {Property.WILL_DELAY: 1}))
        new = await other.durable("phone", 5)
        await closed_with(old)
        device = await other.storage.device(PHONE)
        assert device is not None
        assert (device.will, device.will_at, device.node) == (None, 0, other.token)
        await new.ping()
        assert await stored(other, "gone") == []


async def test_a_clean_start_elsewhere_ends_the_session_and_publishes_its_delayed_will() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {Property.WILL_DELAY: 1000}))
        await old.subscribe("news", options=1)
        new = await other.socket(5)
        assert not (await new.connect("phone", clean=True, expiry=3600)).session_present
        assert await closed_with(old) == [ReasonCode.SESSION_TAKEN_OVER]
        assert await stored(other, "gone") == [b"will"]
        await new.publish("news", b"for nobody")
        await new.ping()


async def test_qos_2_goes_on_where_it_stood() -> None:
    """The exchange of a message that came in, and of one that went out, over a change of nodes."""
    async with two_nodes() as (_, one, other):
        old = await one.durable("phone", 5)
        await old.subscribe("news", options=2)
        await (await one.client("publisher")).publish("news", b"out", 2)
        message = await old.message(finish=False)
        old.send(PubRec(message.packet_id), Publish("in", b"in", 2, False, False, 7))
        assert (await old.expect(PubRel)).packet_id == message.packet_id
        assert (await old.expect(PubRec)).packet_id == 7
        new = await other.durable("phone", 5)
        assert (await new.expect(PubRel)).packet_id == message.packet_id
        new.send(Publish("in", b"in", 2, False, True, 7), PubRel(7))
        assert (await new.expect(PubRec)).packet_id == 7
        assert (await new.expect(PubComp)).packet_id == 7
        assert await stored(other, "in") == [b"in"]


async def test_what_a_frozen_node_writes_of_a_device_that_was_taken_changes_nothing() -> None:
    """! Every write of session state names its epoch."""
    async with two_nodes(errors=True, lease=4.0) as (made, one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {Property.WILL_DELAY: 1000}))
        await old.subscribe("news", options=1)
        await old.ping()
        one.freeze()
        new = await other.durable("phone", 5)
        assert await new.unsubscribe("news") == [0]
        await old.drop()
        await until(lambda: all(s.connection is None for s in one.server.sessions.named("phone")))
        before = await made.database.storage.device(PHONE)
        one.thaw()
        await until(lambda: not one.server.sessions.named("phone"))
        assert await made.database.storage.device(PHONE) == before
        await new.ping()
        assert await stored(other, "gone") == []


async def test_the_will_of_a_frozen_nodes_client_is_published_once_by_whoever_takes_the_device() -> None:
    async with two_nodes(errors=True, lease=4.0) as (_, one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        one.freeze()
        await old.drop()
        await other.durable("phone", 5)
        assert await stored(other, "gone") == [b"will"]
        one.thaw()
        await until(lambda: not one.server.sessions.named("phone"))
        assert await stored(other, "gone") == [b"will"]


async def test_a_node_that_ends_leaves_no_finishing_of_another_behind() -> None:
    """It would go on beside a storage that is being closed."""
    async with two_nodes(errors=True, lease=4.0) as (_, one, other):
        await one.durable("phone", 5)
        one.freeze()
        held = other.hold_call("finish")
        client = await other.socket(5)
        client.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
        await held.begun.wait()
        await other.server.stop()
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("finish node")] == []
        one.thaw()


async def one_left(clients: list[Client]) -> Client:
    """The one of these whose connection the broker keeps, once it has closed all others."""
    closing = {asyncio.create_task(client.closed()): client for client in clients}
    while len(closing) > 1:
        done, _ = await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT)
        assert done, f"{len(closing)} are connected"
        for task in done:
            del closing[task]
    ((task, left),) = closing.items()
    task.cancel()
    await asyncio.wait([task])
    left.send(PingReq())
    while not isinstance(await left.receive(), PingResp):
        pass
    return left


@pytest.mark.parametrize("clean", [False, True])
async def test_the_same_client_on_two_nodes_at_once_leaves_one_connected(clean: bool) -> None:
    """! Of two that open a device with the same epoch storage refuses one; of two clean sessions the later change counts."""
    async with cluster(2) as made:
        for round_ in range(20):
            name = f"phone-{round_}"
            clients = [await node.socket(5) for node in made.nodes]
            for client in clients:
                client.send(Connect(name, 5, clean, 0, properties={} if clean else {17: 3600}))
            left = await one_left(clients)
            holder = made.nodes[clients.index(left)]
            (session,) = holder.server.sessions.named(name)
            assert session.connection is not None
            device = await made.nodes[0].storage.device(DeviceKey(f"c/{name}", name))
            assert (device is None) == clean
            assert device is None or (device.node, device.epoch) == (holder.token, session.epoch)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_connect_that_found_no_session_goes_on_with_the_one_that_is_there_by_then(gone: bool) -> None:
    """! What the client was told by the other node holds: its session, its subscriptions and where it stands. ``gone``: it does
    not wait for the answer."""
    async with two_nodes() as (_, one, other):
        publisher = await one.client("publisher")
        async with other.held() as commits:
            async with looked_up(other) as found:
                late = await other.socket(5)
                late.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
                await found.wait()
                first = await one.socket(5)
                will = Will("wills", b"first", 1)
                assert not (await first.connect("phone", clean=False, expiry=3600, will=will)).session_present
                assert await first.subscribe("news", "wills", options=1) == [1, 1]
                await later(one, other)
            await commits.arrived()
            if gone:
                (session,) = other.server.sessions.named("phone")
                assert session.connection is not None
                session.connection.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "as its client has gone")
        assert await closed_with(first) == [ReasonCode.SESSION_TAKEN_OVER]
        if gone:
            await until(lambda: not other.server.sessions.named("phone"))
            late = await other.socket(5)
            late.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
        answer = await late.receive()
        assert isinstance(answer, ConnAck)
        assert (answer.reason, answer.session_present) == (0, True)
        await publisher.publish("news", b"1")
        assert sorted([(await late.message()).payload for _ in range(2)]) == [b"1", b"first"]
        device = await one.storage.device(PHONE)
        assert device is not None
        assert (device.node, device.will, list(device.subscriptions)) == (other.token, None, ["news", "wills"])
        assert len(other.server.sessions.named("phone")) == 1


async def test_a_connect_over_one_that_found_no_session_is_answered() -> None:
    """! The newer of two connections to one node opens the session anew, not the older one."""
    async with two_nodes() as (_, one, other):
        async with other.held() as commits:
            older, newer = await other.socket(5), await other.socket(5)
            async with looked_up(other) as found:
                older.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
                await found.wait()
                first = await one.durable("phone", 5)
                await first.subscribe("news", options=1)
                await later(one, other)
            await commits.arrived()
            newer.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
            await older.closed()
        answer = await newer.receive()
        assert isinstance(answer, ConnAck)
        assert (answer.reason, answer.session_present) == (0, True)
        await newer.publish("news", b"1")
        assert (await newer.message()).payload == b"1"


async def test_a_frozen_holder_costs_one_time_out_for_all_of_its_devices(caplog: pytest.LogCaptureFixture) -> None:
    """! A holder that is silent is suspected once for all of its devices, not a time-out each."""
    async with two_nodes(errors=True, lease=4.0) as (made, one, other):
        olds = [await one.durable(f"phone-{number}", 5) for number in range(10)]
        await olds[0].subscribe("news", options=1)
        patience = min(2.0, made.database.lease / 5)
        one.freeze()
        loop = asyncio.get_running_loop()
        began = loop.time()
        news = [await other.durable(f"phone-{number}", 5) for number in range(10)]
        assert patience <= loop.time() - began < 3 * patience
        said = [record.message for record in caplog.records if "does not answer" in record.message]
        assert said == ["node 0 (memory-0) does not answer: its devices are taken without it"]  # as `tideline cluster` lists it
        await news[1].publish("news", b"hello")
        assert (await news[0].message()).payload == b"hello"
        one.thaw()
        for old in olds:  # it wakes up, and learns that they have gone
            assert await closed_with(old) == [ReasonCode.SESSION_TAKEN_OVER]


async def test_a_node_that_cannot_ask_the_holder_takes_nothing_and_refuses_its_client_in_time() -> None:
    """! Its own failure is no silence of the holder."""
    async with two_nodes(lease=5.0, mqtt={"connect_timeout": 3.0}) as (_, one, other):
        old = await one.durable("phone", 5)
        before = await one.storage.device(PHONE)
        held = other.hold_call("send")
        new = await other.socket(5)
        ack = await new.connect("phone", clean=False, expiry=3600)
        assert ack.reason == ReasonCode.SERVER_UNAVAILABLE
        assert await one.storage.device(PHONE) == before
        await old.ping()
        held.may_go_on.set()


async def test_what_a_clean_session_had_here_ends_with_it() -> None:
    async with two_nodes() as (_, one, other):
        old = await one.client("visitor", 5)
        await old.subscribe("news", options=1)
        new = await other.client("visitor", 5)
        await closed_with(old)
        publisher = await one.client("publisher", 5)
        await publisher.publish("news", b"to nobody")
        await new.subscribe("news", options=1)
        await publisher.publish("news", b"hello")
        assert (await new.message()).payload == b"hello"


async def test_qos_2_is_exact_where_the_node_froze_before_its_answer() -> None:
    """Stored there and not acknowledged: sent again elsewhere it is the same message, and what the frozen node says comes too
    late."""
    async with two_nodes(errors=True, lease=20.0) as (made, one, other):
        old = await one.durable("phone", 5)
        one.freeze_after_commit()
        old.send(Publish("in", b"once", 2, False, False, 7))
        await until(lambda: made.database.storage.read_conversation("in"))
        new = await other.durable("phone", 5)
        new.send(Publish("in", b"once", 2, False, True, 7))
        assert (await new.expect(PubRec)).packet_id == 7
        new.send(PubRel(7))
        assert (await new.expect(PubComp)).packet_id == 7
        one.thaw()
        assert [packet for packet in await old.closed() if isinstance(packet, PubRec)] == []
        assert await stored(other, "in") == [b"once"]
        new.send(Publish("in", b"another", 2, False, False, 7))  # the identifier is free again
        await new.expect(PubRec)
        assert await stored(other, "in") == [b"once", b"another"]


async def test_what_was_sent_and_not_acknowledged_comes_again_elsewhere_in_order() -> None:
    """A device whose node froze gets what is past its offset, and nothing before it."""
    async with two_nodes(errors=True, lease=20.0) as (made, one, other):
        old = await one.durable("phone", 5)
        await old.subscribe("news", options=1)
        publisher = await other.client("publisher", 5)
        for number in range(6):
            await publisher.publish("news", b"%d" % number)
        assert [message.payload for message in await old.messages(3)] == [b"0", b"1", b"2"]
        await until(lambda: made.database.storage.device(PHONE), "progress")

        async def saved() -> bool:
            device = await made.database.storage.device(PHONE)
            return device is not None and device.offset == 3

        await until(saved)
        one.freeze()
        new = await other.durable("phone", 5)
        assert [message.payload for message in await new.messages(3)] == [b"3", b"4", b"5"]
        await publisher.publish("news", b"6")
        assert (await new.message()).payload == b"6"
        one.thaw()
        await old.closed()


async def test_what_a_silent_node_stored_is_finished_before_its_device_goes_on_elsewhere() -> None:
    """Long before that node is found dead: what the device publishes next comes behind it."""
    async with two_nodes(errors=True, lease=30.0) as (_, one, other):
        subscriber = await other.durable("tablet", 5)
        await subscriber.subscribe("news", options=1)
        publisher = await one.durable("phone", 5)
        await publisher.publish("news", b"known")
        assert (await subscriber.message()).payload == b"known"
        faults = one.storage.faults
        faults.freeze_at("commit inboxes")
        publisher.send(Publish("news", b"half done", 1, False, False, 9))
        await until(lambda: "commit inboxes" in faults.waiting, "it is stored, and in nobody's inbox")
        publisher = await other.durable("phone", 5)
        publisher.send(Publish("news", b"next", 1, False, False, 10))
        assert [message.payload for message in await subscriber.messages(2)] == [b"half done", b"next"]
        one.thaw()


async def test_a_claim_that_storage_refused_leaves_the_device_where_it_is() -> None:
    """A node tells that it opens a device before it does, and dies before it takes that back: the device is still woken."""
    async with two_nodes() as (_, one, other):
        phone = await one.durable("phone", 5)
        await phone.subscribe("news", options=1)
        (session,) = one.server.sessions.named("phone")
        claimed = Operations([Announce([Change(HELD, *PHONE, epoch=session.epoch, node=other.token)])])
        other.server.pipeline.submit(claimed)
        await claimed.finished
        publisher = await other.client("publisher", 5)
        for number in range(3):
            await publisher.publish("news", b"%d" % number)
        assert [message.payload for message in await phone.messages(3)] == [b"0", b"1", b"2"]


async def test_a_connection_reads_its_device_once() -> None:
    """All devices of a dead node come back at once: each read counts."""
    async with two_nodes() as (_, one, other):
        real, read = one.storage.device, []

        async def device(key: DeviceKey) -> Device | None:
            read.append(key.client_id)
            return await real(key)

        one.storage.device = device  # type: ignore[method-assign]
        await (await one.durable("new", 5)).drop()
        await (await other.durable("known", 5)).leave()
        await one.durable("known", 5)
        await one.client("clean", 5)
        assert read == ["new", "known", "clean"]


async def test_a_device_is_taken_to_the_end_although_nobody_heard_of_the_first_step() -> None:
    """The answer to its taking is lost: its will comes, and what its silent node had half done comes before what follows."""
    async with two_nodes(errors=True, lease=30.0) as (_, one, other):
        subscriber = await other.durable("tablet", 5)
        await subscriber.subscribe("news", options=1)
        publisher = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        await publisher.publish("news", b"known")
        assert (await subscriber.message()).payload == b"known"
        one.freeze_after_commit()
        publisher.send(Publish("news", b"half done", 1, False, False, 9))
        await until(lambda: one.frozen, "it is stored")
        other.lose_answer("take")
        await other.durable("phone", 5)
        assert (await subscriber.message()).payload == b"half done"
        assert await stored(other, "gone") == [b"will"]
        one.thaw()


async def test_a_device_is_taken_to_the_end_although_its_client_went_away() -> None:
    """What its silent node had half done comes all the same, and nothing is kept of the taking."""
    async with two_nodes(errors=True, lease=30.0) as (_, one, other):
        subscriber = await other.durable("tablet", 5)
        await subscriber.subscribe("news", options=1)
        publisher = await one.durable("phone", 5)
        await publisher.publish("news", b"known")
        assert (await subscriber.message()).payload == b"known"
        one.freeze_after_commit()
        publisher.send(Publish("news", b"half done", 1, False, False, 9))
        await until(lambda: one.frozen, "it is stored")
        held = other.hold_call("take")
        client = await other.socket(5)
        client.send(Connect("phone", 5, False, 0, properties={Property.SESSION_EXPIRY: 3600}))
        await held.begun.wait()
        await client.drop()
        await until(lambda: len(other.server.connections) == 1, "the broker has noticed")
        held.may_go_on.set()
        assert (await subscriber.message()).payload == b"half done"
        cluster_ = other.server._cluster
        assert cluster_ is not None
        await until(lambda: not cluster_.takeover._taking, "the taking has ended")
        one.thaw()
