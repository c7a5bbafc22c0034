"""HTTP, `$sync` and plugins ask any node about a device: also one that another node has, and one that is nowhere."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from broker.connection import DeviceProblem, NoDevice, SessionReaders, Superseded
from broker.packets import ReasonCode
from broker.packets.model import Disconnect
from plugins.http import HttpPlugin
from storage.errors import StorageUnavailable
from storage.records import Device, DeviceKey
from tests.support.cluster import Node, cluster
from tests.support.until import until

PHONE = DeviceKey("c/phone", "phone")


def readers(node: Node) -> SessionReaders:
    return node.server.api.readers


async def test_a_device_that_another_node_has_is_changed_there() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        publisher = await other.client("publisher", 5)
        asked = readers(other)
        assert await asked.subscribe(PHONE, "news/#", 1, None) == 1
        await publisher.publish("news/1", b"hello")
        assert (await phone.message()).payload == b"hello"
        assert await asked.set_offset(PHONE, 0) == 0
        assert (await phone.message()).payload == b"hello"
        with pytest.raises(DeviceProblem, match="offset 7 is past the head of the inbox, 1"):
            await asked.set_offset(PHONE, 7)
        assert await asked.unsubscribe(PHONE, "news/#")
        assert not await asked.unsubscribe(PHONE, "news/#")
        await publisher.publish("news/1", b"to nobody")
        await phone.quiet()
        claim = await asked.claim(PHONE)
        assert claim.epoch == 0
        with pytest.raises(Superseded):
            await asked.acknowledge(PHONE, 5, 1)
        await asked.forget(PHONE)
        assert any(isinstance(packet, Disconnect) for packet in await phone.closed())
        with pytest.raises(NoDevice):
            await asked.forget(PHONE)


async def test_a_reader_over_http_may_ask_another_node_each_time() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await other.client("publisher", 5)
        claim = await readers(one).claim(PHONE)
        assert await readers(other).subscribe(PHONE, "news", 1, None) == 1
        for number in range(4):
            await publisher.publish("news", b"%d" % number)
        assert await readers(other).current(PHONE, claim.epoch)
        page = await readers(one).page(PHONE, 0, 10, 1 << 20, None)
        assert [entry.message.payload for entry in page.entries if entry.message] == [b"0", b"1", b"2", b"3"]
        assert await readers(one).acknowledge(PHONE, claim.epoch, 4) == 4
        assert await readers(other).set_offset(PHONE, 1) == 1
        assert await readers(one).acknowledge(PHONE, claim.epoch, 2) == 2  # what it knew of the offset before is forgotten
        newer = await readers(other).claim(PHONE)
        assert newer.epoch > claim.epoch
        assert newer.offset == 2
        with pytest.raises(Superseded):
            await readers(one).acknowledge(PHONE, claim.epoch, 4)
        phone = await one.durable("phone", 5)
        assert not await readers(other).current(PHONE, newer.epoch)
        assert [message.payload for message in await phone.messages(2)] == [b"2", b"3"]


async def test_a_reader_takes_the_device_from_its_connection_on_another_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        claim = await readers(other).claim(PHONE, takeover=True)
        assert [p.reason for p in await phone.closed() if isinstance(p, Disconnect)] == [ReasonCode.SESSION_TAKEN_OVER]
        assert await readers(other).current(PHONE, claim.epoch)


async def test_a_device_of_a_silent_node_is_left_to_it_and_the_caller_is_told() -> None:
    async with cluster(2, errors=True, lease=20.0) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        one.freeze()
        with pytest.raises(StorageUnavailable, match="connected to another node, which does not answer"):
            await readers(other).set_offset(PHONE, 0)
        one.thaw()
        await phone.ping()


async def test_over_http_and_by_plugins() -> None:
    http = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}}
    async with cluster(2, plugins=http) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        assert await other.server.api.add_subscription("phone", "plugin", 1) == 1
        plugin = other.server.api.plugin(HttpPlugin)
        assert plugin is not None
        async with httpx.AsyncClient(base_url="http://{}:{}/v1".format(*plugin.address), timeout=30) as client:
            answer = await client.post("/devices/phone/subscriptions?user=c/phone", json={"filter": "news", "qos": 1})
            assert answer.status_code == 200, answer.text
            device = answer.json()
            assert device["connected"]
            assert sorted(s["filter"] for s in device["subscriptions"]) == ["news", "plugin"]
            assert (await client.put("/devices/phone/offset?user=c/phone", json={"offset": 0})).json() == {"offset": 0}
            assert (await client.delete("/devices/phone?user=c/phone")).status_code == 204
        await phone.closed()


async def test_of_many_changes_at_once_through_both_nodes_none_is_lost() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        await readers(one).claim(PHONE)
        wanted = [f"topic/{number}" for number in range(20)]
        await asyncio.gather(
            *(readers(node).subscribe(PHONE, name, 1, None) for node, name in zip((one, other) * 10, wanted, strict=True))
        )
        device = await one.storage.device(PHONE)
        assert device is not None
        assert sorted(device.subscriptions) == sorted(wanted)
        publisher = await one.client("publisher", 5)
        for name in wanted:
            await publisher.publish(name, b"")
        await until(lambda: all(node.server.pipeline.pending == 0 for node in made.nodes))
        assert await one.storage.inbox_head(PHONE.user) == 20


async def test_what_another_node_changes_is_known_also_while_the_session_is_in_use_here() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        await readers(one).claim(PHONE)
        session = await one.server.sessions.fetch(PHONE)
        assert session is not None
        session.awaits_filter = True  # somebody is at it
        publisher = await one.client("publisher", 5)
        assert await readers(other).subscribe(PHONE, "news", 1, None) == 1
        await publisher.publish("news", b"due")
        assert one.server.sessions.get(PHONE) is session
        assert await one.storage.inbox_head(PHONE.user) == 1
        assert await readers(other).unsubscribe(PHONE, "news")
        await publisher.publish("news", b"to nobody")
        assert await one.storage.inbox_head(PHONE.user) == 1
        session.awaits_filter = False


async def test_a_read_mark_is_told_to_the_users_devices_on_all_nodes() -> None:
    """A user's two devices on two nodes: one marks as read, the other is told."""
    async with cluster(2, plugins={"requests": {}, "http": {"bind": "127.0.0.1:0", "operator_file": ""}}) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        assert await phone.subscribe("$sync/events/phone") == [0]
        await phone.subscribe("chat/x", options=1)
        publisher = await other.client("publisher", 5)
        await publisher.publish("chat/x", b"hello")
        await phone.message()
        other.server.api.tell_user("c/phone", "$sync/events/", b'{"event": "read"}', but="tablet")
        message = await phone.message()
        assert (message.topic, message.payload) == ("$sync/events/phone", b'{"event": "read"}')
        other.server.api.tell_user("c/phone", "$sync/events/", b"not to be told", but="phone")
        await phone.quiet()


async def test_a_device_that_has_just_left_its_node_is_asked_about_once() -> None:
    """! Its node answers that it has it no more once that is in storage, which the one that asks looks into again."""
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        visitor = await other.client("visitor", 5)
        real, looks = other.storage.device, []

        async def device(key: DeviceKey) -> Device | None:
            looks.append(key)
            return await real(key)

        async with one.held() as commits:
            await one.lose(phone, "phone")
            await commits.arrived()
            other.storage.device = device  # type: ignore[method-assign]
            asking = asyncio.create_task(readers(other).subscribe(PHONE, "news", 1, None))
            await until(lambda: looks)
            for _ in range(50):
                await visitor.ping()
            assert looks == [PHONE]
        assert await asking == 1
