"""A bridge between two Tidelines: both ways, nothing lost, nothing in a circle, whichever of the two is away or killed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from broker.config import checked
from broker.errors import StartError
from broker.packets import Property
from plugins.bridge import BridgePlugin
from plugins.bridge.link import Link
from storage.records import Append
from tests.support.broker import ANONYMOUS, Broker, running
from tests.support.laws_process import broker_process, free_port
from tests.support.until import until
from tests.support.wire import Client

NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}


def bridge(port: int, **options: Any) -> dict[str, Any]:
    return {"bridge": {"bridges": [{"name": "up", "address": f"127.0.0.1:{port}", **options}]}}


def at(port: int) -> dict[str, Any]:
    return {"listeners": [{"name": "tcp", "type": "tcp", "bind": f"127.0.0.1:{port}"}]}


async def linked(far: Broker, client_id: str = "tideline-up") -> None:
    """Wait until the bridge is connected to the other broker, and has subscribed."""
    await until(lambda: any(s.subscriptions for s in far.server.sessions.named(client_id)))


@pytest.mark.parametrize(("protocol", "send", "receive"), [(5, ["#"], ["#"]), (4, ["1"], ["2", "3"])], ids=["5", "3.1.1"])
async def test_messages_go_both_ways_with_their_properties_and_not_in_a_circle(
    protocol: int, send: list[str], receive: list[str]
) -> None:
    """In 3.1.1 the other broker cannot be asked to send nothing back, so that the two ways are kept apart there."""
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(running())
        ways = {"send": send, "receive": receive}
        routes = {way: [{"filter": f, "local": "a/", "remote": "b/"} for f in filters] for way, filters in ways.items()}
        near = await stack.enter_async_context(running(plugins=bridge(far.address[1], protocol=protocol, **routes)))
        await linked(far)
        here, there = await near.client("here", 5), await far.client("there", 5)
        for client in (here, there):
            await client.subscribe("#", options=1)
        properties: dict[int, Any] = {Property.CONTENT_TYPE: "x", Property.MESSAGE_EXPIRY: 1000}
        properties[Property.USER_PROPERTY] = [("k", "v")]
        publisher = await near.client("publisher", 5)
        await publisher.publish("a/1", b"out", retain=True, properties=properties)
        await publisher.publish("other", b"stays")
        message = await there.message()
        assert (message.topic, message.payload) == ("b/1", b"out")
        if protocol == 5:
            assert message.properties[Property.CONTENT_TYPE] == "x"
            assert ("k", "v") in list(message.properties[Property.USER_PROPERTY])
            assert 900 < message.properties[Property.MESSAGE_EXPIRY] <= 1000
        assert [(await here.message()).topic for _ in range(2)] == ["a/1", "other"]
        publisher = await far.client("publisher", 5)
        await publisher.publish("b/2", b"in", properties=properties)
        message = await there.message()
        assert (message.topic, message.payload) == ("b/2", b"in")
        came = await here.message()
        assert (came.topic, came.payload) == ("a/2", b"in")
        # What went round would come before this.
        await (await far.client("last", 5)).publish("b/3", b"last")
        assert (await here.message()).payload == b"last"
        assert (await there.message()).payload == b"last"
        late = await far.client("late", 5)
        await late.subscribe("b/1", options=1)
        assert (await late.message()).retain


@pytest.mark.parametrize("protocol", [5, 4], ids=["5", "3.1.1"])
async def test_why_the_other_broker_refuses_the_connection_is_told(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that such a connection ends then: however often it is tried."""
    told: list[str] = []
    lost = Link._lost

    def heard(link: Link, why: str) -> None:
        told.append(why)
        lost(link, why)

    monkeypatch.setattr(Link, "_lost", heard)
    names: dict[str, Any] = {"tests.support.laws_auth.NameIsPassword": {}, **dict.fromkeys(ANONYMOUS, False)}
    async with running(plugins=names) as far:
        options = {"protocol": protocol, "username": "ann", "password": "wrong", "send": [{"filter": "#"}]}
        async with running(plugins=bridge(far.address[1], **options)) as near:
            await until(lambda: len(told) == 2)
            plugin = near.server.api.plugin(BridgePlugin)
            assert plugin is not None
            (runner,) = plugin._runners
            state = runner.state()
    assert told[0] == told[1] == state["error"]
    assert told[0].startswith("it refuses the connection: ")
    assert not state["connected"]


async def test_nothing_is_lost_whichever_side_is_away(tmp_path: Path) -> None:
    """The near broker is killed in the midst, the far one stopped; each goes on from where it was."""
    port = free_port()
    options = bridge(port, send=[{"filter": "up/#"}], receive=[{"filter": "down/#"}])
    plugins = {**NOBODY, **ANONYMOUS, **options}
    far_url = f"sqlite:///{tmp_path}/far.db"
    with broker_process(tmp_path, f"sqlite:///{tmp_path}/near.db", plugins=plugins) as near:
        async with running(far_url, **at(port)) as far:
            await linked(far)
            cloud = await far.durable("cloud")
            await cloud.subscribe("up/#", options=1)
        field = await Client.open(("127.0.0.1", near.port))
        await field.connect("field", clean=False)
        await field.subscribe("down/#", options=1)
        for number in range(30):  # the other side is away
            await field.publish("up/1", b"%d" % number)
        await asyncio.to_thread(near.kill)
        async with running(far_url, **at(port)) as far:
            publisher = await far.client("publisher")
            for number in range(30):  # this side is away
                await publisher.publish("down/1", b"%d" % number)
            await asyncio.to_thread(near.start)
            field = await Client.open(("127.0.0.1", near.port))
            await field.connect("field", clean=False)
            assert await distinct(field, 30) == [b"%d" % number for number in range(30)]
            cloud = await far.durable("cloud")
            assert await distinct(cloud, 30) == [b"%d" % number for number in range(30)]


async def test_what_comes_is_acknowledged_when_it_is_durable_here() -> None:
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(running())
        near = await stack.enter_async_context(running(plugins=bridge(far.address[1], receive=[{"filter": "#"}])))
        await linked(far)
        (session,) = far.server.sessions.named("tideline-up")
        publisher = await far.client("publisher", 5)
        async with near.held() as commits:
            await publisher.publish("down/1", b"x")
            group = await commits.arrived()
            assert [op.message.payload for op in group if isinstance(op, Append)] == [b"x"]
            await publisher.ping()
            assert len(session.window) == 1
        await until(lambda: len(session.window) == 0)
        plugin = near.server.api.plugin(BridgePlugin)
        assert plugin is not None
        (runner,) = plugin._runners
        asked, real = [], runner._may
        waited = asyncio.Event()

        async def may() -> bool:
            asked.append(1)
            waited.set()
            return await real()

        runner._may = may
        await asyncio.wait_for(waited.wait(), 60)
        for _ in range(500):
            await publisher.ping()
        assert len(asked) < 250  # a way that is not configured is not waited for in a circle


async def distinct(client: Client, count: int) -> list[bytes]:
    """So many payloads, each once, in the order in which they first came."""
    found: dict[bytes, None] = {}
    while len(found) < count:
        async with asyncio.timeout(60):
            found[(await client.message()).payload] = None
    return list(found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "neither send nor receive"),
        ({"send": [{"filter": "a#"}]}, "filter"),
        ({"send": [{"filter": "#", "local": "+/"}]}, "wildcard"),
        ({"send": [{"filter": "$share/a/b"}]}, "shared"),
        ({"send": [{"filter": "#"}], "address": "nowhere"}, "address"),
        ({"send": [{"filter": "#"}], "protocol": 3}, "protocol: 3 must be 5"),
        ({"send": [{"filter": "#"}], "cafile": "x.pem"}, "tls: true"),
    ],
)
def test_what_is_wrong_with_a_bridge_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told) as error:
        checked(
            "plugins.bridge.BridgePlugin", {"bridges": [{"name": "up", "address": "b:1883", "password": "hidden", **options}]}
        )
    assert "hidden" not in str(error.value)
