"""Two nodes open, at the same moment, a device that was never stored: one has it, and each will is published once."""

from __future__ import annotations

import pytest

from broker.packets import ReasonCode
from broker.packets.model import ConnAck, Connect, Disconnect, Will
from broker.packets.properties import Properties, Property
from tests.support.broker import Broker
from tests.support.cluster import cluster
from tests.support.until import until
from tests.support.wire import Client


def connect(will: bytes, *, durable: bool, delay: int) -> Connect:
    properties: Properties = {Property.SESSION_EXPIRY: 3600} if durable else {}
    wills: Properties = {Property.WILL_DELAY: delay} if delay else {}
    return Connect("phone", 5, not durable, 0, will=Will("gone", will, 1, False, wills), properties=properties)


async def opened_at_once(one: Broker, other: Broker, *, durable: bool, delay: int) -> tuple[Client, Client]:
    """Both have found nobody who has the device when the first one's session is stored; the second one's epoch is higher."""
    first, second = await one.socket(5), await other.socket(5)
    async with other.held() as theirs:
        async with one.held() as commits:
            first.send(connect(b"first", durable=durable, delay=delay))
            await commits.arrived()
            (session,) = one.server.sessions.named("phone")
            assert other.server.cluster is not None
            its = other.server.cluster
            await until(lambda: its.time() > session.epoch)
            second.send(connect(b"second", durable=durable, delay=delay))
            await theirs.arrived()
        assert (await first.expect(ConnAck)).reason == 0
    return first, second


async def wills(node: Broker) -> list[bytes]:
    return [message.payload for message in await node.server.storage.read_conversation("gone")]


@pytest.mark.parametrize(("durable", "delay"), [(True, 0), (True, 100), (False, 0)], ids=["durable", "delayed", "clean"])
async def test_the_will_of_the_one_that_loses_is_published_once(durable: bool, delay: int) -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        first, second = await opened_at_once(one, other, durable=durable, delay=delay)
        assert (await second.expect(ConnAck)).session_present == durable
        assert [p.reason for p in await first.closed() if isinstance(p, Disconnect)] == [ReasonCode.SESSION_TAKEN_OVER]
        published = [] if delay else [b"first"]  # the session goes on before it would be due [MQTT-3.1.3-9]
        await until(lambda: _are(one, published))
        await second.ping()
        assert await wills(one) == published
        assert (one.server.clients, other.server.clients) == (0, 1)
        await second.leave(ReasonCode.DISCONNECT_WITH_WILL, {Property.SESSION_EXPIRY: 0} if durable else {})
        await until(lambda: _are(one, [*published, b"second"]))


async def test_one_that_is_refused_was_never_accepted_and_has_no_will() -> None:
    """[MQTT-3.1.2-8] The other one, which was stored first with the higher epoch, keeps the device."""
    async with cluster(2) as made:
        one, other = made.nodes
        second = await other.socket(5)
        async with other.held() as theirs:
            second.send(connect(b"second", durable=True, delay=0))
            await theirs.arrived()
            (session,) = other.server.sessions.named("phone")
            assert one.server.cluster is not None
            mine = one.server.cluster
            await until(lambda: mine.time() > session.epoch)
            first = await one.durable("phone", 5, will=Will("gone", b"first", 1, False, {}))
        assert await second.closed() == []
        await first.quiet()
        assert await wills(one) == []
        assert (one.server.clients, other.server.clients) == (1, 0)


async def test_the_node_that_lost_the_device_publishes_its_will_where_the_other_one_cannot() -> None:
    """The other node died when it had stored its own session, and before it published anything."""
    async with cluster(2, errors=True) as made:
        one, other = made.nodes
        first, second = await one.socket(5), await other.socket(5)
        async with one.held() as commits:
            first.send(connect(b"first", durable=True, delay=0))
            await commits.arrived()
            (session,) = one.server.sessions.named("phone")
            assert other.server.cluster is not None
            its = other.server.cluster
            await until(lambda: its.time() > session.epoch)
            other.freeze_after_commit()
            async with other.held() as theirs:
                second.send(connect(b"second", durable=True, delay=0))
                await theirs.arrived()
                commits.open = True
                commits.let(1000)
                await first.expect(ConnAck)
        await until(lambda: other.frozen, "it is stored")
        await other.kill()
        await first.closed()
        await until(lambda: _are(one, [b"first", b"second"]))


async def _are(node: Broker, expected: list[bytes]) -> bool:
    return sorted(await wills(node)) == expected
