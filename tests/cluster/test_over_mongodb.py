"""Taking devices, and what follows a dead node, over a real MongoDB wire server, through a proxy for each node that is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from broker.packets import ReasonCode
from broker.packets.model import Connect, PubAck, Publish, PubRec, Will
from broker.server import Server
from broker.sessions import member_key
from plugins.persistence import PersistencePlugin
from storage.interface import Storage
from storage.mongo import MongoStorage
from storage.records import Append, DeviceKey, Operation
from tests.cluster.test_takeover import closed_with, one_left
from tests.support import mongo_server
from tests.support.broker import Broker, settings
from tests.support.mongo_proxy import MongoProxy
from tests.support.until import until
from tests.support.wire import Client

PHONE = DeviceKey("c/phone", "phone")


class SharedMongoDb(PersistencePlugin):
    """Joins the nodes of a database."""

    @dataclass
    class Config(PersistencePlugin.Config):
        url: str = "memory://"
        shared: str = ""

    config: Config

    def storage(self) -> Storage:
        return MongoStorage(self.config.shared)


class Node(Broker):
    def __init__(self, server: Server, proxy: MongoProxy) -> None:
        super().__init__(server)
        self.proxy = proxy

    @property
    def token(self) -> int:
        assert self.server.storage.cluster is not None
        return self.server.storage.cluster.me.token


@asynccontextmanager
async def nodes(
    count: int = 2,
    *,
    lease: float = 2.0,
    proxied: bool = False,
    policies: Sequence[dict[str, str]] = (),
    plugins: Mapping[str, Any] | None = None,
) -> AsyncIterator[list[Node]]:
    """So many nodes over one new database; ``proxied``: each through its proxy, which takes a quarter of the work."""
    database = mongo_server.new_database()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(mongo_server.drop, database)
        started: list[Node] = []
        for _ in range(count):
            proxy = MongoProxy(*mongo_server.address())
            if proxied:
                await proxy.start()
                stack.push_async_callback(proxy.stop)
            options = f"serverSelectionTimeoutMS=3000&tideline_lease_ms={lease * 1000:.0f}"
            url = mongo_server.url(database, options, through=proxy.port if proxied else 0)
            persistence = {"shared": url, "policies": list(policies)}
            made = settings(plugins={f"{__name__}.SharedMongoDb": persistence, **(plugins or {})})
            del made.plugins["persistence"]
            server = Server(made)
            await server.start()
            node = Node(server, proxy)
            stack.push_async_callback(server.stop)
            stack.push_async_callback(node.close_clients)
            started.append(node)
        yield started


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_a_suback_on_one_node_binds_a_publish_on_another(durable: bool) -> None:
    """Whatever is kept of the topic; what is retained too."""
    async with nodes(policies=[{"filter": "live/#", "mode": "store"}, {"filter": "none/#", "mode": "none"}]) as (one, other):
        publisher = await one.client("publisher")
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        for number in range(4):
            for kind in ("kept", "live", "none"):
                name = f"{kind}/{number}"
                assert await subscriber.subscribe(f"{name}/#" if number % 2 else name, options=1) == [1]
                await publisher.publish(name, b"%d" % number)
                message = await subscriber.message()
                assert (message.topic, message.payload) == (name, b"%d" % number)
            await publisher.publish(f"state/{number}", b"old", retain=True)
            await publisher.publish(f"state/{number}", b"new", retain=True)
            assert await subscriber.subscribe(f"state/{number}", options=1) == [1]
            assert (await subscriber.message()).payload == b"new"
        await subscriber.quiet()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "clean"])
async def test_who_subscribes_while_a_message_is_being_retained_gets_it(durable: bool) -> None:
    async with nodes() as (one, other):
        publisher = await one.client("publisher")
        subscriber = await (other.durable if durable else other.client)("subscriber", 5)
        async with one.held() as commits:
            publisher.send(Publish("state", b"new", 1, True, False, 1))
            await commits.arrived()
            await subscriber.subscribe("state", options=1)
        assert (await subscriber.message()).payload == b"new"
        await publisher.expect(PubAck)
        await subscriber.quiet()


async def test_a_device_and_its_will_go_to_the_node_that_it_connects_to() -> None:
    async with nodes() as (one, other):
        old = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        await old.subscribe("news/#", options=1)
        new = await other.socket(5)
        assert (await new.connect("phone", clean=False, expiry=3600)).session_present
        assert await closed_with(old) == [ReasonCode.SESSION_TAKEN_OVER]
        publisher = await one.client("publisher", 5)
        await publisher.publish("news/1", b"hello")
        assert (await new.message()).payload == b"hello"
        assert [m.payload for m in await one.server.storage.read_conversation("gone")] == [b"will"]


async def test_of_two_that_connect_at_once_one_is_left() -> None:
    async with nodes() as made:
        for number in range(10):
            clean, name = number % 2 == 1, f"phone-{number}"
            clients = [await node.socket(5) for node in made]
            for client in clients:
                client.send(Connect(name, 5, clean, 0, properties={} if clean else {17: 3600}))
            left = await one_left(clients)
            holder = made[clients.index(left)]
            (session,) = holder.server.sessions.named(name)
            device = await made[0].server.storage.device(DeviceKey(f"c/{name}", name))
            assert (device is None) == clean
            assert device is None or (device.node, device.epoch) == (holder.token, session.epoch)


async def test_a_node_that_is_cut_off_is_dead_and_ends_when_it_is_back() -> None:
    async with nodes(proxied=True) as (one, other):
        phone = await one.durable("phone", 5, will=Will("gone", b"will", 1, False, {}))
        await phone.subscribe("news", options=1)
        await one.proxy.stop()
        phone.send(Publish("news", b"undecided", 2, False, False, 5))
        await until(lambda: other.server.storage.read_conversation("gone"))
        new = await other.durable("phone", 5)
        publisher = await other.client("publisher", 5)
        await publisher.publish("news", b"hello")
        assert (await new.message()).payload == b"hello"
        new.send(Publish("elsewhere", b"undecided", 2, False, True, 5))
        assert (await new.expect(PubRec)).packet_id == 5
        await one.proxy.start()
        await one.server.serve_forever()
        assert one.server.failure
        assert [m.payload for m in await other.server.storage.read_conversation("gone")] == [b"will"]


async def test_a_message_whose_node_was_cut_off_before_it_told_anybody_is_got_once() -> None:
    async with nodes(3, proxied=True) as (one, other, third):
        clients = [await node.client(f"clean-{number}", 5) for number, node in enumerate((other, third))]
        for client in clients:
            await client.subscribe("news", options=2)
        first = await one.durable("publisher", 5)
        real, cut = one.server.storage.commit, asyncio.Event()

        async def commit(group: Sequence[Operation]) -> None:
            await real(group)
            if any(isinstance(operation, Append) for operation in group):
                await one.proxy.stop()
                cut.set()

        one.server.storage.commit = commit  # type: ignore[method-assign]
        first.send(Publish("news", b"untold", 2, False, False, 9))
        await cut.wait()
        second = await other.durable("publisher", 5)
        second.send(Publish("news", b"untold", 2, False, True, 9))
        assert (await second.expect(PubRec)).packet_id == 9
        for client in clients:
            assert (await client.message()).payload == b"untold"
        await (await third.client("another", 5)).publish("news", b"next")
        for client in clients:
            assert (await client.message()).payload == b"next"


async def test_a_device_that_another_node_has_is_changed_there() -> None:
    async with nodes() as (one, other):
        phone = await one.durable("phone", 5)
        readers = other.server.api.readers
        assert await readers.subscribe(PHONE, "news", 1, None) == 1
        publisher = await other.client("publisher", 5)
        await publisher.publish("news", b"hello")
        assert (await phone.message()).payload == b"hello"
        assert await readers.set_offset(PHONE, 0) == 0
        assert (await phone.message()).payload == b"hello"
        await readers.forget(PHONE)
        await phone.closed()
        assert await one.server.storage.device(PHONE) is None


async def test_a_shared_subscription_is_divided_and_what_a_cut_node_had_goes_to_the_others() -> None:
    async with nodes(2, proxied=True) as (one, other):
        silent = await one.durable("silent", 5)
        assert await silent.subscribe("$share/crew/work", options=1) == [1]
        publisher = await other.client("publisher")
        for number in range(5):
            assert await publisher.publish("work", b"%d" % number) == 0
        assert {(await silent.message(finish=False)).payload for _ in range(5)} == {b"%d" % number for number in range(5)}
        helper = await other.durable("helper", 5)
        assert await helper.subscribe("$share/crew/work", options=1) == [1]
        await one.proxy.stop()
        assert {message.payload for message in await helper.messages(5)} == {b"%d" % number for number in range(5)}
        await helper.quiet()


GROUP = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]
CHANNEL = "r/group/#"
PER_MESSAGE = {"store", "sync", "conversations", "users", "members", "retained"}
"""What a message may write to, beside what nodes tell each other and where devices stand."""


def written(made: list[Node]) -> int:
    """How many writes the nodes have sent since this was asked last, of what a message needs."""
    found = 0
    for node in made:
        bodies, node.proxy.bodies = node.proxy.bodies or [], []
        found += sum(1 for body in bodies if (body.get("insert") or body.get("update")) in PER_MESSAGE)
        found += 2 * sum(1 for body in bodies if "bulkWrite" in body)  # to the store and to the inboxes
    return found


@pytest.mark.parametrize("count", [1, 2])
async def test_a_large_group_takes_as_many_writes_a_message_as_a_small_one(count: int) -> None:
    async with nodes(count, policies=GROUP, proxied=True) as made:
        storage = made[0].server.storage
        writer = await made[0].client("writer")
        readers: list[Client] = []
        seen: list[set[int]] = []
        for members in (2, 12):
            for n in range(len(readers), members):
                readers.append(await made[n % count].durable(f"reader-{n}"))
                await readers[n].subscribe("group/#", options=1)
            await writer.publish("group/a", b"noted")  # who is new is noted with the first message
            for reader in readers:
                assert (await reader.message()).payload == b"noted"
            written(made)
            costs = set()
            for n in range(5):
                await writer.publish("group/a", b"%d" % n)
                for reader in readers:
                    assert (await reader.message()).payload == b"%d" % n
                costs.add(written(made))
            seen.append(costs)
        assert seen == [{2}, {2}]  # the message, and one entry
        assert len(await storage.read_inbox(CHANNEL, 0, 100)) == 12
        assert [user async for user, _, last in storage.inboxes() if last] == [CHANNEL]
        assert len(await storage.read_conversation("group/a")) == 12


@pytest.mark.parametrize("count", [1, 2])
async def test_each_reader_of_a_large_group_has_an_offset_and_its_unread_messages(count: int) -> None:
    async with nodes(count, policies=GROUP, plugins={"requests": {}}) as made:
        one, other = made[0], made[-1]
        fast, slow = await one.durable("fast"), await other.durable("slow")
        for reader in (fast, slow):
            await reader.subscribe("group/#", options=1)
        writer = await other.client("writer")
        await writer.publish("group/a", b"0")
        for reader in (fast, slow):
            assert (await reader.message()).payload == b"0"
        await other.lose(slow, "slow")
        for n in range(1, 4):
            await writer.publish("group/a", b"%d" % n)
            assert (await fast.message()).payload == b"%d" % n

        async def offsets() -> bool:
            found = [await one.server.storage.device(member_key(CHANNEL, DeviceKey(f"c/{n}", n))) for n in ("fast", "slow")]
            return [device.offset for device in found if device is not None] == [4, 1]

        await until(offsets)
        assert await other.server.storage.lowest_offset(CHANNEL) == 1
        await writer.publish("$sync/request", b'{"op": "read", "topic": "group/a", "position": 1}')
        await until(lambda: read_position(one, "c/writer", 1))
        (found,) = await one.server.storage.memberships("c/writer")
        assert (found.topic, found.first, found.last, found.position) == ("group/a", 1, 4, 1)
        (found,) = await one.server.storage.memberships("c/slow")
        assert (found.last, found.position) == (4, 0)
        slow = await one.durable("slow")  # through another node, where there is one
        assert [(await slow.message()).payload for _ in range(3)] == [b"1", b"2", b"3"]
        await slow.quiet()


async def read_position(node: Node, user: str, position: int) -> bool:
    return await node.server.storage.read_position(user, "group/a") == position
